# The worker's image. Build it from the root of the repository:
#
#   docker build --file docker/worker.Dockerfile --tag visionq-worker .
#   docker build --file docker/worker.Dockerfile --tag visionq-worker --build-arg WITH_FLASH_ATTN=1 .
#
# It holds no key, and of models the small `pocket` alone. Other weights are downloaded on the first start into the volume. Settings
# come from the environment as VISIONQ_<SECTION>__<KEY>; a settings.toml with kinds of one's own is
# mounted into /etc/visionq.
#
# Base: torch's wheels bring their own CUDA libraries, so of NVIDIA's images the smallest one,
# `base`, is enough: `runtime` would carry cuBLAS, NCCL and the rest a second time. A plain Python
# image would do as well for torch alone; but flash-attn is compiled in NVIDIA's `devel` image, and
# one family gives both sides the same glibc and the same Python 3.12. CUDA_VERSION is the toolkit
# that the torch of tools/torch-version is built with; change them together.

ARG CUDA_VERSION=13.0.3
ARG WITH_FLASH_ATTN=0


FROM nvidia/cuda:${CUDA_VERSION}-base-ubuntu24.04 AS torch
# hadolint ignore=DL3008 # Ubuntu's archive drops a build when the next one comes: pins stop working
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH}
WORKDIR /build
COPY requirements.txt tools/torch-version ./
# The tested versions, as constraints. Their hashes go: pip takes either hashes for all or for none,
# and a package that is installed from a folder has none.
RUN sed -n 's/^\([A-Za-z0-9._-]*==[^ ;]*\).*/\1/p' requirements.txt > constraints.txt \
    && echo "torch==$(cat torch-version)" >> constraints.txt
# pip's cache is a build mount: it speeds up the next build and is in no layer.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt torch


# WITH_FLASH_ATTN=0: no wheel. The devel image is then not even pulled.
FROM torch AS flash-attn-0
RUN mkdir /wheels


# WITH_FLASH_ATTN=1: one wheel, for this torch and this Python.
FROM nvidia/cuda:${CUDA_VERSION}-devel-ubuntu24.04 AS flash-attn-1
ARG FLASH_ATTN_VERSION=2.8.3.post2
# Compute capabilities: 80 serves A100 and, by compatibility, A10, L4 and L40S; 90 is H100 and H200.
ARG FLASH_ATTN_CUDA_ARCHS="80;90"
# A job takes up to 8 GB of memory. More nvcc threads would multiply that by the capabilities.
ARG MAX_JOBS=4
# hadolint ignore=DL3008 # pins stop working, see above
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3.12-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=torch /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH}
# FORCE_BUILD: otherwise its build script looks for a ready-made binary on the web and takes that.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install ninja==1.13.2 packaging==26.3 psutil==7.2.2 setuptools==84.2.1 wheel==0.48.0 \
    && FLASH_ATTENTION_FORCE_BUILD=TRUE NVCC_THREADS=1 \
       pip wheel --no-build-isolation --no-deps --no-binary flash-attn --wheel-dir /wheels \
       "flash-attn==${FLASH_ATTN_VERSION}"


# hadolint ignore=DL3006 # names one of the two stages above, not an image
FROM flash-attn-${WITH_FLASH_ATTN} AS flash-attn


FROM torch AS installed
ARG WITH_FLASH_ATTN
COPY producer producer
COPY worker worker
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=flash-attn,source=/wheels,target=/wheels \
    if [ "${WITH_FLASH_ATTN}" = 1 ]; then worker='./worker[gpu]'; else worker='./worker'; fi \
    && pip install --constraint constraints.txt --find-links /wheels --only-binary flash-attn \
       ./producer "${worker}" \
    && pip check


FROM nvidia/cuda:${CUDA_VERSION}-base-ubuntu24.04
# gcc and Python's headers: Triton compiles a small C launcher for its kernels at run time.
# fonts-noto-cjk (91 MB): for PDFs that name a Chinese, Japanese or Korean font and do not bring it.
# Of smaller ones, fonts-droid-fallback leaves Korean blank.
# hadolint ignore=DL3008 # pins stop working, see above
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
       ca-certificates fonts-noto-cjk gcc libc6-dev python3.12 python3.12-dev \
    && rm -rf /var/lib/apt/lists/*
# The home is the only folder that the worker writes to, besides /tmp: weights and compiled kernels.
# The ids are fixed, so that a volume keeps its owner from one image to the next.
RUN groupadd --gid 10001 visionq \
    && useradd --uid 10001 --gid visionq --no-log-init --shell /usr/sbin/nologin \
       --home-dir /var/cache/visionq --create-home visionq
COPY --from=installed /opt/venv /opt/venv
# Inductor would use /tmp, where compose.yaml forbids execution.
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    VISIONQ_WORKER__HEALTH_FILE=/tmp/health.json \
    HOME=/var/cache/visionq \
    HF_HOME=/var/cache/visionq/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    TRITON_CACHE_DIR=/var/cache/visionq/triton \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/visionq/inductor
# Not the home: there, whoever writes to the volume could leave a settings.toml to be read.
WORKDIR /etc/visionq
VOLUME ["/var/cache/visionq"]
# Numbers, not a name: Kubernetes can then see that the user is not root.
USER 10001:10001
# The first start downloads 8 GB; failures within the start period do not count.
HEALTHCHECK --interval=30s --timeout=20s --start-period=30m --retries=3 \
    CMD ["visionq-worker", "probe", "live"]
ENTRYPOINT ["visionq-worker"]
CMD ["run"]
