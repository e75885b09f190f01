# The worker and the command line in one image. Two stages: pip and its caches stay in the first.
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python3 -m venv /opt/caption-audit
COPY requirements.lock ./
# torch's own index has builds for CPU alone and for each CUDA: name one with --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL=""
RUN /opt/caption-audit/bin/pip install --requirement requirements.lock
COPY . .
RUN /opt/caption-audit/bin/pip install --no-deps .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home audit && mkdir /var/lib/caption-audit && chown audit /var/lib/caption-audit
COPY --from=build /opt/caption-audit /opt/caption-audit
ENV PATH=/opt/caption-audit/bin:$PATH AUDIT_HOME=/var/lib/caption-audit PYTHONUNBUFFERED=1 PIP_NO_INDEX=1
USER audit
WORKDIR /var/lib/caption-audit
ENTRYPOINT ["caption-audit"]
CMD ["worker"]
