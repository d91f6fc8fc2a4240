# The label server (docs/slicer.md). Build: docker build --tag prsmed-label .
# Run, on this machine only, read-only and without privileges:
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
#     --publish 127.0.0.1:8000:8000 --volume STUDIES:/studies --volume HOME:/state prsmed-label --realm https://...
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX_URL=""
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 MLFLOW_DISABLE_TELEMETRY=true HOME=/state

WORKDIR /app
COPY constraints.txt pyproject.toml large_files.yml LICENSE README.md ./
COPY bundle/monailabel/requirements.txt bundle/monailabel/requirements.txt
COPY prsmed prsmed
COPY bundle bundle
COPY configs configs
COPY models/tiny models/tiny

# torch first and alone where another index is named: it does not carry the pinned versions of torch's requirements
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
        pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX_URL" --constraint constraints.txt torch; \
    fi \
    && pip install --no-cache-dir --constraint constraints.txt --editable . --requirement bundle/monailabel/requirements.txt \
    && pip install --no-cache-dir --no-deps monailabel==0.8.5 \
    && useradd --uid 10001 --no-create-home label \
    && mkdir /studies /state && chown label /studies /state

USER 10001
VOLUME ["/studies", "/state"]
EXPOSE 8000
# Inside a container loopback is nobody's: it listens on all of the container's addresses and therefore needs --realm.
ENTRYPOINT ["python", "-m", "bundle.monailabel", "--studies", "/studies", "--home", "/state", "--host", "0.0.0.0"]
