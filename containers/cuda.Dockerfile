# docker build -f containers/cuda.Dockerfile -t auditor:cuda .
# docker run --rm --gpus all -v "$PWD:/work" auditor:cuda run model.onnx --data images
# The image needs no CUDA: the packages contain it. The driver (580 or later) comes from the host.
FROM python:3.13-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        fonts-dejavu-core libharfbuzz-subset0 libpango-1.0-0 libpangoft2-1.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv
COPY . /src
RUN uv pip install --system --no-cache /src
WORKDIR /work
ENTRYPOINT ["auditor"]
