# docker build -f containers/cpu.Dockerfile -t auditor:cpu .
# docker run --rm -v "$PWD:/work" auditor:cpu run model.onnx --data images
FROM python:3.13-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        fonts-dejavu-core libharfbuzz-subset0 libpango-1.0-0 libpangoft2-1.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv
COPY . /src
# without the libraries of CUDA, see docs/how-to/gpu.md
RUN uv pip install --system --no-cache --torch-backend cpu --override /src/cpu-overrides.txt /src
WORKDIR /work
ENTRYPOINT ["auditor"]
