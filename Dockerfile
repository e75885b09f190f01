# The worker and the command line in one image; pip, its cache and what is cut off stay in the stages before the last.
#
#   docker build -t caption-audit:cpu .                              torch built for CPU alone
#   docker build -t caption-audit:gpu --build-arg TORCH_INDEX= .     torch as PyPI has it, for CUDA: several GB more
#
# For the same base every time, name it by digest in both FROM lines: python:3.11-slim@sha256:...
FROM python:3.11-slim AS requirements
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
RUN python3 -m venv /opt/caption-audit
COPY requirements.lock ./

# torch alone may come from this index: what else it offers never takes part. A CPU image needs its builds for CPU, so a
# build for CUDA ends the build here; it is what pip falls back to when the index does not answer.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip() { /opt/caption-audit/bin/pip "$@"; } \
 && grep -E '^torch==' requirements.lock > torch.lock \
 && pip install --no-compile --no-deps ${TORCH_INDEX:+--retries 2 --extra-index-url "$TORCH_INDEX"} -r torch.lock \
 && cuda=$(python3 -c 'import runpy, sys; print(runpy.run_path(sys.argv[1])["cuda"] or "")' \
      /opt/caption-audit/lib/python3.*/site-packages/torch/version.py) \
 && if [ "${TORCH_INDEX##*/}" = cpu ] && [ -n "$cuda" ]; then \
      echo "torch came for CUDA $cuda: does $TORCH_INDEX answer? If CUDA is meant: --build-arg TORCH_INDEX=" >&2; exit 1; \
    fi
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/caption-audit/bin/pip install --no-compile -r requirements.lock

# Cut off: what only tests, C++ extensions and installers need. Compiled once here, because with a read-only root every
# start would compile anew; hashes instead of times make the same files the same bytes.
FROM requirements AS trimmed
RUN cd /opt/caption-audit/lib/python3.*/site-packages \
 && find . -type d \( -name tests -o -path ./torch/test -o -path ./torch/include -o -path ./pyarrow/include \
      -o -path ./tornado/test \) -prune -exec rm -r {} + \
 && find torch/bin -type f ! -name torch_shm_manager -delete \
 && rm -r pip pip-*.dist-info /opt/caption-audit/bin/pip* \
 # Status 1: a few files are written for a newer Python; nothing imports them here.
 && { /opt/caption-audit/bin/python -m compileall -qq -j 0 --invalidation-mode unchecked-hash . || [ $? = 1 ]; }

# This project's own code is a layer of its own, so that a new version of it is a few megabytes and not the whole image.
FROM requirements AS package
COPY . .
RUN /opt/caption-audit/bin/pip install --no-compile --no-deps --no-build-isolation --prefix /opt/package . \
 && /opt/caption-audit/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/package/lib

FROM python:3.11-slim
LABEL org.opencontainers.image.title="caption-audit" \
      org.opencontainers.image.description="Bulk audit of image/caption pairs: Yes, No or Maybe, in SQL." \
      org.opencontainers.image.licenses="Apache-2.0"
# The number is fixed, so that volumes keep their owner from image to image. run/ is where a tmpfs goes when the root is
# read-only; some engines give that the mode of the folder below it.
RUN useradd --uid 10001 --create-home audit \
 && mkdir -p /var/lib/caption-audit/models /var/lib/caption-audit/cache && chown -R audit:audit /var/lib/caption-audit \
 && mkdir -m 1777 /var/lib/caption-audit/run
COPY --from=trimmed /opt/caption-audit /opt/caption-audit
COPY --from=package /opt/package /opt/caption-audit
ENV PATH=/opt/caption-audit/bin:$PATH AUDIT_HOME=/var/lib/caption-audit \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/caption-audit
# Run it with --init: what a killed process leaves behind becomes a child of process 1, which must reap it.
ENTRYPOINT ["caption-audit"]
CMD ["worker"]
