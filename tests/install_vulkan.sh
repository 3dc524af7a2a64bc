#!/usr/bin/env bash
# Install a software Vulkan driver, on which the tests run WebGPU's kernels. It must be Mesa 25 or later, which Debian 12
# has in its backports only.
set -euo pipefail

major() { dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null | cut -d. -f1; }

if [[ $(major) -ge 25 ]]; then
    exit 0
fi
apt-get update -qq
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
if [[ $codename == bookworm ]]; then
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $codename" | head -n 1)
    echo "deb $mirror $codename-backports main" >/etc/apt/sources.list.d/backports.list
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends -t "$codename-backports" mesa-vulkan-drivers libvulkan1
else
    apt-get install -y -qq --no-install-recommends mesa-vulkan-drivers libvulkan1
fi
if [[ $(major) -lt 25 ]]; then
    echo "mesa-vulkan-drivers is older than 25 here; WebGPU's kernels are not known to work on it" >&2
    exit 1
fi
