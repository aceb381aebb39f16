# An image with mdssl and all that it needs, for Kubernetes (clusters/kuberay.yaml) and clusters of containers. From the
# project's folder:
#
#   docker build --build-arg MDSSL_GIT_COMMIT=$(git describe --always --abbrev=40 --dirty) -t REGISTRY/mdssl:latest .
#   docker push REGISTRY/mdssl:latest
#
# On a machine without a GPU: --build-arg BASE=python:3.12-slim, some GB smaller. The Ray of the base must be that of
# constraints.txt.
ARG BASE=rayproject/ray:2.60.0-py312-gpu
FROM ${BASE}

WORKDIR /opt/mdssl
USER root
# What it depends on first: this layer, 5 GB, is built anew only when these files change.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mdssl/__init__.py mdssl/__init__.py
RUN pip install --no-cache-dir --constraint constraints.txt . boto3
COPY mdssl mdssl
COPY sweeps sweeps
RUN pip install --no-cache-dir --no-deps --force-reinstall .
# Ray's images have it already.
RUN id 1000 >/dev/null 2>&1 || useradd --create-home --uid 1000 ray
# What rows have as git_commit: there is no .git in the image.
ARG MDSSL_GIT_COMMIT=""
ENV MDSSL_GIT_COMMIT=${MDSSL_GIT_COMMIT}
USER 1000
