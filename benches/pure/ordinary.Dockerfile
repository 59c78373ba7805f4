# syntax=docker/dockerfile:1
# check=skip=JSONArgsRecommended

# The distribution that everything is built on.
ARG RELEASE=bookworm
ARG NODE_VERSION=22

# ---------------------------------------------------------------------------------------------------------------------
# Tools that only the build needs
# ---------------------------------------------------------------------------------------------------------------------
FROM --platform=$BUILDPLATFORM debian:${RELEASE} AS tools
ENV DEBIAN_FRONTEND=noninteractive \
    LANG=C.UTF-8 \
    PATH=/opt/tools/bin:$PATH
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt,sharing=locked \
    apt-get update \
    # the compiler and what it links with
    && apt-get install -y --no-install-recommends \
        build-essential \
        ca-certificates \
        curl \
        git \
        libssl-dev \
        pkg-config \
        python3 \
        unzip \
        zlib1g-dev \
    && rm -rf /usr/share/doc/* /usr/share/man/*

# ---------------------------------------------------------------------------------------------------------------------
# The front end
# ---------------------------------------------------------------------------------------------------------------------
FROM node:${NODE_VERSION}-${RELEASE} AS page
WORKDIR /src/page
COPY page/package.json page/package-lock.json ./
RUN --mount=type=cache,target=/root/.npm npm ci --no-audit --no-fund
COPY --exclude=*.md --exclude=node_modules page/ ./
ARG COMMIT=unknown
ENV PAGE_COMMIT=${COMMIT:-unknown} PAGE_MODE="production"
RUN npm run build && find dist -type f -name '*.js' -exec gzip -9 -k {} +

# ---------------------------------------------------------------------------------------------------------------------
# The server
# ---------------------------------------------------------------------------------------------------------------------
FROM tools AS server
WORKDIR /src/server
COPY server/Makefile server/configure ./
COPY server/lib/ lib/
COPY server/src/ src/
RUN <<EOF
set -eu
./configure --prefix=/usr --sysconfdir=/etc --localstatedir=/var
make -j"$(nproc)" all
make check
make DESTDIR=/out install
for file in /out/usr/bin/*; do
    strip --strip-unneeded "$file"
done
EOF

FROM debian:${RELEASE}-slim AS final
LABEL org.opencontainers.image.title="An ordinary server" \
      org.opencontainers.image.description="A page, a server, and what both need at run time" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 app && useradd --system --uid 10001 --gid app --home-dir /srv --no-create-home app
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libssl3 tini && rm -rf /var/lib/apt/lists/*
COPY --from=server --chown=root:root /out/ /
COPY --from=page --chown=app:app --link /src/page/dist/ /srv/www/
COPY --chmod=0644 <<SETTINGS /etc/server/settings.conf
listen = 0.0.0.0:8080
root = /srv/www
log = /dev/stdout
SETTINGS
ENV SERVER_SETTINGS=/etc/server/settings.conf \
    SERVER_WORKERS=4
EXPOSE 8080/tcp 9090
VOLUME ["/srv/data"]
USER app
WORKDIR /srv
HEALTHCHECK --interval=30s --timeout=3s --retries=3 CMD ["/usr/bin/server", "--check"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/bin/server"]
CMD ["--settings", "/etc/server/settings.conf"]
