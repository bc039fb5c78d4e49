# One image for every role: a worker (the default), the Prefect server, the set-up, or a single run.
#
#     docker build -t retrain --build-arg REVISION="$(git describe --always --dirty)" .
#     docker build -t retrain:gpu --build-arg SET=gpu .     # TensorFlow with CUDA; the driver comes from the host
#     docker run -v retrain:/data retrain retrain run --dataset digits
#     docker run -e PREFECT_API_URL -e PREFECT_API_AUTH_STRING retrain prefect worker start --pool retrain-jobs
#
# BASE may be any Debian with Python 3.11 to 3.13. What is written lies under /data, which belongs to user 10001; the
# rest may be read-only, if /tmp is not.

ARG BASE=python:3.13-slim-trixie

# The packages of the lock file. A layer of their own, since the code changes more often than they do.
FROM ${BASE} AS packages
ARG SET=cpu
COPY requirements.lock requirements-gpu.lock /
# pip stays outside the environment that it fills. Wheels only: there is no compiler, here or later. Compiled to .pyc
# now, since the user who runs it may not write there.
RUN case "$SET" in cpu) lock=/requirements.lock ;; gpu) lock=/requirements-gpu.lock ;; \
        *) echo "SET is cpu or gpu, not '$SET'" >&2; exit 2 ;; esac \
    && python3 -c 'import sys; sys.exit("BASE has Python " + sys.version.split()[0] + ", TensorFlow needs 3.11 to 3.13" \
        if not (3, 11) <= sys.version_info < (3, 14) else 0)' \
    && python3 -m venv /pip \
    && python3 -m venv --without-pip /opt/retrain \
    && /pip/bin/pip --python /opt/retrain/bin/python install --no-cache-dir --only-binary :all: --no-deps \
        --require-hashes --requirement "$lock" \
    && echo /app > "$(/opt/retrain/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/app.pth"

# The job itself, in /app beside its deployments.
FROM packages AS job
COPY pyproject.toml README.md /source/
COPY flows /source/flows
COPY tasks /source/tasks
COPY deployments /app/deployments
RUN /pip/bin/pip --python /opt/retrain/bin/python install --no-cache-dir --no-deps --no-build-isolation \
        --target /app /source

FROM ${BASE}
# A number, so that Kubernetes can tell that it is not root; fixed, so that a volume keeps its owner.
RUN useradd --uid 10001 --user-group --home-dir /data --no-create-home --shell /usr/sbin/nologin retrain \
    && install --directory --owner retrain --group retrain /data
COPY --from=packages /opt/retrain /opt/retrain
COPY --from=job /app /app
# The commit that this is; it goes into every model's manifest.
ARG REVISION=
ARG BASE
LABEL org.opencontainers.image.title="retrain" \
      org.opencontainers.image.description="Retrains an MNIST model, judges it, publishes it to S3-compatible storage" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
ENV PATH=/app/bin:/opt/retrain/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    RETRAIN_HOME=/data/home \
    RETRAIN_STORE=/data/store \
    RETRAIN_REVISION=${REVISION} \
    PREFECT_HOME=/data/prefect \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/data/ui \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /app
# No HEALTHCHECK: what healthy means depends on the role, and deployments/compose.yaml says it for each.
CMD ["prefect", "worker", "start", "--pool", "retrain-jobs"]
