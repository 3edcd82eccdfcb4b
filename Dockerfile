# syntax=docker/dockerfile:1
# The benchmark with its pinned packages. Torch brings its own CUDA libraries; the driver is the host's.
#   docker build -t dlmbench .            docker run --gpus all dlmbench doctor
# Any Debian or Ubuntu with Python 3.11 to 3.13 will do as a base: --build-arg BASE=...
ARG BASE=nvidia/cuda:12.6.3-runtime-ubuntu24.04
# hadolint ignore=DL3006
FROM ${BASE}

# Versions of system packages follow the base image, which is what pins them.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates git python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --shell /bin/bash --uid 10001 dlmbench \
    && install --directory --owner dlmbench --group dlmbench /opt/venv /opt/dlmbench /work /cache/huggingface
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1

# The packages change less often than the code: a layer of their own.
USER 10001
WORKDIR /opt/dlmbench
COPY --chown=10001 requirements.txt ./
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir --requirement requirements.txt

COPY --chown=10001 . .
RUN pip install --no-cache-dir --no-deps --editable .

# Models and data come from outside: mount the cache that `dlmbench download` filled.
ENV HF_HOME=/cache/huggingface
WORKDIR /work
ENTRYPOINT ["dlmbench"]
CMD ["--help"]
