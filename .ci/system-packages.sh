#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages named as arguments; by default those that tests need: for the viewer an X
# server in software and the OpenGL and X libraries that Qt loads, for the evaluation's report a browser. Where it may
# not install, it says in words what is missing and still ends well: those tests are then skipped, each with its reason.
set -euo pipefail

viewer=(
    xvfb xauth libgl1 libegl1 libgl1-mesa-dri libglib2.0-0 libfontconfig1 libdbus-1-3 libxkbcommon-x11-0
    libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0
    libxcb-xinerama0
)

installed() { # releases with 64-bit time renamed some libraries: libglib2.0-0 is libglib2.0-0t64 there
    [[ $(dpkg-query -W -f='${Status}\n' "$1" "$1t64" 2>/dev/null) == *"ok installed"* ]]
}

install() {
    local as_root=() # empty: this is root
    if [[ $(id -u) -ne 0 ]]; then
        sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n)
    fi
    local apt=(${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=2)
    "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null
}

[[ $(uname -s) == Linux ]] || exit 0 # macOS and Windows bring their own display and OpenGL

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    wanted=("${@:-${viewer[@]} chromium}")
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

if [[ $# -gt 0 ]]; then
    ensure "$@"
    exit 0
fi
ensure "${viewer[@]}"
# By itself: Ubuntu has chromium as a snap only, and what cannot be had must not keep the rest away.
command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null || ensure chromium
