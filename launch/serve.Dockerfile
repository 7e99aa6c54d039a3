# The image of the service on CPUs, to build from the root of a checkout. Not built by its authors:
# they installed launch/serve_requirements.txt and the package in a virtual environment and ran it.
#
#   docker build -t vtadl-serve -f launch/serve.Dockerfile .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL -p 127.0.0.1:8000:8000 \
#     -v $PWD/runs/mvtec-screw:/models/screw:ro vtadl-serve --model=/models/screw --host=0.0.0.0
FROM python:3.12-slim AS build
WORKDIR /src
COPY launch/serve_requirements.txt ./
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -r serve_requirements.txt
COPY setup.py pyproject.toml README.md ./
COPY configs configs
COPY vtadl_jax vtadl_jax
RUN /venv/bin/pip install --no-cache-dir --no-deps .

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin serve
COPY --from=build /venv /venv
USER 10001:10001
WORKDIR /tmp
ENV PATH=/venv/bin:$PATH HOME=/tmp JAX_PLATFORMS=cpu PYTHONUNBUFFERED=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=120s --interval=10s --timeout=3s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
ENTRYPOINT ["python", "-m", "vtadl_jax.serve"]
CMD ["--model=/models/model", "--host=0.0.0.0"]
