# The command nearfar on a slim Python: no build tools, no root.
ARG BASE=python:3.13.5-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python3 -m venv /opt/nearfar \
    && /opt/nearfar/bin/pip wheel --quiet --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /opt/nearfar/bin/pip install --quiet --no-cache-dir "$(echo /wheels/nearfar-*.whl)[download,redis]" \
    && /opt/nearfar/bin/pip uninstall --quiet --yes pip

FROM ${BASE}
COPY --from=build /opt/nearfar /opt/nearfar
COPY deploy/until /usr/local/bin/until
# A new volume gets the content and the owner of the folder on which it is mounted.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin nearfar \
    && install -d -o nearfar -g nearfar -m 700 /keys /keys/service /keys/worker /keys/consumer /keys/producer \
        /keys/redis /redis /downloads /tour
ENV PATH=/opt/nearfar/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /downloads
ENTRYPOINT ["nearfar"]
CMD ["--help"]
