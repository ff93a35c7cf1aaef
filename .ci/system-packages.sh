#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages named as arguments; by default those that tests need: for the viewer an X
# server in software and the OpenGL and X libraries that Qt loads, for the evaluation's report a browser, for pacs an
# archive. Where it may not install, it says in words what is missing and still ends well: those tests are then skipped,
# each with its reason.
set -euo pipefail

viewer=(
    xvfb xauth libgl1 libegl1 libgl1-mesa-dri libglib2.0-0 libfontconfig1 libdbus-1-3 libxkbcommon-x11-0
    libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0
    libxcb-xinerama0
)
archive=(orthanc orthanc-dicomweb)

installed() { # releases with 64-bit time renamed some libraries: libglib2.0-0 is libglib2.0-0t64 there
    [[ $(dpkg-query -W -f='${Status}\n' "$1" "$1t64" 2>/dev/null) == *"ok installed"* ]]
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then "$@"; else sudo -n "$@"; fi
}

install() {
    as_root true 2>/dev/null || return 1
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=2)
    as_root "${apt[@]}" update && as_root "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null
}

[[ $(uname -s) == Linux ]] || exit 0 # macOS and Windows bring their own display and OpenGL

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    wanted=("${@:-${viewer[@]} chromium ${archive[@]}}")
    echo "system packages: no apt-get here, so nothing was checked. Wanted, by their Debian names: ${wanted[*]}" >&2
    exit 0
fi

ensure() { # ensure PACKAGE...: installs those that are missing, all or none
    local missing=() package
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    echo "system packages: installing ${missing[*]}"
    if ! install "${missing[@]}"; then
        echo "system packages: could not be installed (root or sudo without a password, and a network, are needed)." >&2
        echo "To have them: sudo apt-get install ${missing[*]}" >&2
    fi
}

ensure_idle() { # ensure_idle SERVICE PACKAGE...: as ensure, but a service that comes with them never starts
    local service=$1 policy=/usr/sbin/policy-rc.d
    shift
    if installed "$service" || ! as_root true 2>/dev/null; then # one that is there already stays as it is
        ensure "$@"
        return 0
    fi
    if [[ ! -e $policy ]]; then # asked by Debian's packages before they start a service; 101: no
        trap "as_root rm -f $policy" EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    ensure "$@"
    if installed "$service" && command -v update-rc.d >/dev/null; then
        as_root update-rc.d "$service" disable >/dev/null 2>&1 || true
    fi
}

if [[ $# -gt 0 ]]; then
    ensure "$@"
    exit 0
fi
ensure "${viewer[@]}"
# By itself: Ubuntu has chromium as a snap only, and what cannot be had must not keep the rest away.
command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null || ensure chromium
ensure_idle orthanc "${archive[@]}"
