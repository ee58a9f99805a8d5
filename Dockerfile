# Knot on any image of Python:
#     docker build -t knot .
#     docker run --read-only -p 8080:8080 -v ./www:/www:ro knot
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
COPY pyproject.toml README.md LICENSE /source/
COPY tame /source/tame
COPY knot /source/knot
RUN python3 -m venv /opt/knot \
    && /opt/knot/bin/pip install --no-cache-dir '/source[compress,http2,metrics,auth]' \
    && /opt/knot/bin/pip uninstall --yes pip setuptools

FROM ${PYTHON}
LABEL org.opencontainers.image.title="Knot" \
      org.opencontainers.image.description="A static-file web server written in Tame" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/knot /opt/knot
ENV PATH=/opt/knot/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1 \
    KNOT_HOST=0.0.0.0 KNOT_PORT=8080 KNOT_LOG=common
# Python imports nothing from here, whatever is started in this image.
WORKDIR /www
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s CMD ["python3", "-I", "-c", "from http.client import HTTPConnection as C; from os import environ as e; c = C('127.0.0.1', int(e['KNOT_PORT']), timeout=4); c.request('OPTIONS', '/'); exit(c.getresponse().status >= 500)"]
ENTRYPOINT ["knot", "serve"]
CMD ["/www"]
