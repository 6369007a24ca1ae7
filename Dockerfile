# syntax=docker/dockerfile:1
# The lock files are made with the Python of this image: `make lock`. Name it by digest where builds must repeat:
#   docker build --build-arg PYTHON_IMAGE=python@sha256:… .
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements-build.lock requirements.lock ./
RUN python -m pip install --require-hashes --requirement requirements-build.lock \
 && python -m pip wheel --require-hashes --no-build-isolation --wheel-dir /wheels --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY ssis_exporter ssis_exporter
RUN python -m pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
 && python -m venv --without-pip /opt/ssis_exporter \
 && python -m pip --python /opt/ssis_exporter/bin/python install --no-index --no-deps /wheels/*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="ssis_exporter" \
      org.opencontainers.image.description="Prometheus exporter and careful stop webhook for SQL Server Integration Services" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN python -m pip uninstall --yes --root-user-action=ignore pip \
 && install --directory --owner=65532 --group=65532 --mode=0750 /var/lib/ssis_exporter
COPY --from=build /opt/ssis_exporter /opt/ssis_exporter
COPY README.md LICENSE /opt/ssis_exporter/
ENV PATH=/opt/ssis_exporter/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    STATE_DIRECTORY=/var/lib/ssis_exporter
# The only folder that is written to; everything else may be read-only.
VOLUME /var/lib/ssis_exporter
USER 65532:65532
EXPOSE 10058
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 CMD ["ssis-exporter", "healthcheck"]
ENTRYPOINT ["ssis-exporter"]
CMD ["serve"]
