"""Which files of a dataset repository hold a split: the card can choose among them, and can name nothing else."""

from typing import Any

import pytest

from worker.checking.hub_files import NoSuchFiles, of_one_format, split_files


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "README.md"], ["train"]),
        (["data/train_sft-00000-of-00001.parquet", "data/test_sft-00000-of-00001.parquet"], ["test_sft", "train_sft"]),
        (["train.jsonl", "dev.jsonl"], ["train", "validation"]),
        (["train/a.json", "test/a.json"], ["test", "train"]),
        (["my-training-set.csv", "my_eval.csv"], ["test", "train"]),
        (["chats.json", "dataset_infos.json", ".gitattributes"], ["train"]),
        (["chats.jsonl.gz"], ["train"]),
    ],
)
def test_splits_are_found_by_the_words_in_names(names: list[str], splits: list[str]) -> None:
    assert sorted(split_files(names, {}, None)) == splits


@pytest.mark.parametrize(
    "names", [["a.parquet", "LICENSE.txt"], ["a.parquet", "a.jsonl"], ["notes.txt", "other.txt", "a.parquet"]]
)
def test_the_same_rows_in_two_formats_are_read_once(names: list[str]) -> None:
    assert of_one_format(split_files(names, {}, None)["train"]) == ["a.parquet"]


@pytest.mark.parametrize(
    ("data_files", "files"),
    [
        ("en/*.json", {"train": ["en/a.json", "en/b.json"]}),
        (["en/a.json", "./de/a.json"], {"train": ["en/a.json", "de/a.json"]}),
        ([{"split": "train", "path": "en/a.json"}, {"split": "test", "path": ["de/*"]}], None),
        ("**", {"train": ["de/a.json", "en/a.json", "en/b.json"]}),
        ("**/a.json", {"train": ["de/a.json", "en/a.json"]}),
        ("*/[!b]*", {"train": ["de/a.json", "en/a.json"]}),
    ],
)
def test_a_card_chooses_among_the_files_of_its_repository(data_files: Any, files: dict[str, list[str]] | None) -> None:
    card = {"configs": [{"config_name": "default", "data_files": data_files}]}

    found = split_files(["en/a.json", "en/b.json", "de/a.json"], card, None)

    assert found == (files or {"train": ["en/a.json"], "test": ["de/a.json"]})


OUTSIDE = ["/etc/*.json", "../x.json", "data/../../x.json", "./../x.json", "~/x.json", "a\\..\\x.json"]
ELSEWHERE = ["hf://datasets/other/private/x.json", "zip://a.json::http://127.0.0.1/x.zip"]
URLS = ["file:///etc/x.json", "http://169.254.169.254/latest.json"]


@pytest.mark.parametrize("path", [*OUTSIDE, *ELSEWHERE, *URLS, 7])
@pytest.mark.parametrize("place", ["data_files", "data_dir"])
def test_what_is_no_file_of_the_repository_is_refused_and_not_repeated(path: Any, place: str) -> None:
    card = {"configs": [{"config_name": "default", place: path}]}

    with pytest.raises(NoSuchFiles) as refused:
        split_files(["a.json", "x.json"], card, None)

    assert str(path) not in str(refused.value)


@pytest.mark.parametrize(
    ("configs", "subset", "message"),
    [
        (
            [{"config_name": "en"}, {"config_name": "de"}],
            None,
            "several subsets and no default one; its subsets: de, en",
        ),
        ([{"config_name": "en"}], "fr", "no subset 'fr'; its subsets: en"),
        ([], "fr", "no subset 'fr'; its subsets: none"),
        ("en", None, "not a list of subsets"),
        ([{"config_name": "en", "field": "rows"}], None, "the key 'field' of a subset in its card is not supported"),
        ([{"config_name": "en", "data_files": "x/*.json"}], None, "none of its data files matches 'x/*.json'"),
    ],
)
def test_a_subset_that_cannot_be_read_is_named(configs: Any, subset: str | None, message: str) -> None:
    with pytest.raises(NoSuchFiles) as refused:
        split_files(["a.json"], {"configs": configs}, subset)

    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("configs", "files"),
    [
        ([{"config_name": "en", "data_dir": "en"}], ["en/a.json"]),
        (
            [{"config_name": "de", "data_dir": "de"}, {"config_name": "en", "data_dir": "en", "default": True}],
            ["en/a.json"],
        ),
        ([{"config_name": "de", "data_dir": "de"}, {"config_name": "default"}], ["de/a.json", "en/a.json"]),
    ],
)
def test_without_a_name_the_default_subset_is_read(configs: Any, files: list[str]) -> None:
    assert split_files(["en/a.json", "de/a.json"], {"configs": configs}, None) == {"train": files}


def test_a_repository_without_data_files_says_so() -> None:
    with pytest.raises(NoSuchFiles, match="it holds no data file"):
        split_files(["README.md", "loader.py", "a.arrow"], {}, None)


def test_a_pattern_made_to_take_for_ever_is_matched_at_once() -> None:
    card = {"configs": [{"config_name": "default", "data_files": "**/*a" * 40 + "/" + "*a" * 40 + "b"}]}

    with pytest.raises(NoSuchFiles, match="none of its data files matches"):
        split_files(["/".join(["a" * 120] * 20)[:-1] + ".json"], card, None)
