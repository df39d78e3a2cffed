# A CPU:          docker build -t vpjax .
# An NVIDIA GPU:  docker build -t vpjax:cuda12 --build-arg EXTRA=cuda12 .   (run with --gpus all)
#
#   docker run --rm vpjax                                       the first run
#   docker run --rm -v "$PWD:/work" vpjax train --config digits:vpt_deep
FROM python:3.11-slim

# "cpu", or an extra of pyproject.toml: "cuda12", "cuda13". CUDA's libraries come as wheels.
ARG EXTRA=cpu
WORKDIR /opt/vpjax
COPY pyproject.toml requirements-cpu.txt README.md LICENSE ./
COPY vpjax vpjax
COPY configs configs
RUN if [ "$EXTRA" = cpu ]; then pip install --no-cache-dir .; else pip install --no-cache-dir ".[$EXTRA]"; fi

# Weights, features and compiled programs are kept here: mount a volume to keep them.
ENV VPJAX_CACHE=/cache
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["vpjax"]
