# The API and the migrations: no torch, no GPU.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 TUNESMITH_HOME=/var/lib/tunesmith
WORKDIR /opt/tunesmith

COPY pyproject.toml requirements.lock README.md ./
COPY app ./app
COPY worker ./worker
COPY migrations ./migrations
# requirements.lock bounds every version; only what `[project.dependencies]` needs is installed.
RUN pip install -c requirements.lock .

RUN useradd --create-home tunesmith && mkdir -p /var/lib/tunesmith && chown tunesmith /var/lib/tunesmith
USER tunesmith
EXPOSE 8000
CMD ["python", "-m", "uvicorn", "app.main:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000"]
