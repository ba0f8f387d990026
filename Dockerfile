# Two images on one base, with one Python and one numeric user, so that both may write what the other wrote:
#   docker build --target api -t tunesmith .          the API and the migrations: no torch, no GPU
#   docker build --target gpu -t tunesmith-gpu .      checker, worker and engine: the training stack
# The tag says what the digest is; docs/hosts.md says how both are renewed.
FROM python:3.12.14-slim-trixie@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea AS base

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 \
    TUNESMITH_HOME=/var/lib/tunesmith HF_HOME=/var/cache/huggingface
RUN groupadd --gid 10001 tunesmith && useradd --uid 10001 --gid 10001 --create-home tunesmith \
    && install -d -m 0700 -o 10001 -g 10001 /var/lib/tunesmith /var/lib/tunesmith/run /var/cache/huggingface
WORKDIR /opt/tunesmith

FROM base AS api
# `tunesmith backup` calls pg_dump, which has to be of the server's version: Debian's is 17, as docker-compose.yml's.
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-client && rm -rf /var/lib/apt/lists/*
COPY requirements/api.txt requirements/
RUN pip install --require-hashes --no-deps -r requirements/api.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY worker worker
COPY migrations migrations
RUN pip install --no-deps --no-build-isolation .
USER 10001:10001
EXPOSE 8000
CMD ["python", "-m", "app.serve"]

# torch's wheels bring CUDA's libraries and the NVIDIA runtime brings the driver's, so no CUDA image is needed below.
# Triton and inductor compile small C files: that takes gcc and the headers of libc and Python, and no nvcc.
FROM base AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/*
COPY requirements/gpu.txt requirements/
RUN pip install --require-hashes --no-deps -r requirements/gpu.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY worker worker
COPY migrations migrations
RUN pip install --no-deps --no-build-isolation .
USER 10001:10001
CMD ["python", "-m", "celery", "-A", "worker.supervising.celery_app", "worker", "-P", "threads", "-c", "1", "-Q", "tunesmith.train"]
