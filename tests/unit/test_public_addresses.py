"""Which addresses a webhook may be sent to."""

import pytest

from app.public_addresses import is_among, is_public, read_address, read_networks

PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"]
INNER = [
    *("127.0.0.1", "127.255.0.3", "0.0.0.0", "10.0.0.1", "172.16.9.9", "192.168.1.1", "100.64.0.1", "100.100.100.200"),
    *("169.254.169.254", "169.254.0.9", "168.63.129.16", "192.0.0.192", "192.88.99.1", "198.18.0.1", "203.0.113.9"),
    *("224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255", "233.252.0.1"),
    *(
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "2001:db8::1",
    ),
    *(
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::1.1.1.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
    ),
    *("64:ff9b:1::1", "64:ff9b:1:fffe::10.0.0.1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378::1", "5f00::1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(read_address(address))


@pytest.mark.parametrize("address", INNER)
def test_an_inner_address_is_not_public_however_it_is_written(address: str) -> None:
    assert not is_public(read_address(address))


def test_an_address_is_in_a_network_that_the_operator_allows() -> None:
    networks = read_networks(" 10.1.0.0/16, ::1 ,,")

    assert [is_among(read_address(each), networks) for each in ("10.1.2.3", "::ffff:10.1.2.3", "::1", "10.2.0.1")] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("text", ["all", "10.1.0.1/16", "localhost", "10.0.0.0/33"])
def test_a_text_that_names_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected networks such as 10\.1\.0\.0/16"):
        read_networks(text)
