#!/bin/sh
# Runs a command beside a libvirt of its own: network, folders and VMs are seen by
# nobody else, and nothing that a VM sends leaves this machine. Root only.
# usage: with-libvirt.sh COMMAND [ARGUMENT]...
set -eu

if [ "${WITH_LIBVIRT:-}" != inside ]; then
	[ "$(id -u)" = 0 ] || { echo "with-libvirt.sh: only root can start a libvirt of its own" >&2; exit 1; }
	base=$(mktemp -d /tmp/with-libvirt-XXXXXX)
	trap 'rm -rf "$base"' EXIT
	status=0
	WITH_LIBVIRT=inside BASE=$base unshare --net --mount --propagation private "$0" "$@" || status=$?
	exit $status
fi

ip link set lo up
for folder in run/libvirt var/lib/libvirt etc/libvirt var/log/libvirt var/cache/libvirt; do
	mkdir -p "$BASE/$folder" "/$folder"
	mount --bind "$BASE/$folder" "/$folder"
done
mkdir -p /var/lib/libvirt/dnsmasq /var/lib/libvirt/qemu /var/lib/libvirt/images /var/lib/libvirt/boot \
	/var/log/libvirt/qemu /etc/libvirt/qemu /run/libvirt/network
# libvirt wants this user to be there, whether or not it uses it.
id libvirt-qemu >/dev/null 2>&1 || for file in passwd group; do
	cp /etc/$file "$BASE/$file"
	case $file in
	passwd) echo "libvirt-qemu:x:64055:64055::/:/bin/false" >>"$BASE/$file" ;;
	group) echo "libvirt-qemu:x:64055:" >>"$BASE/$file" ;;
	esac
	mount --bind "$BASE/$file" /etc/$file
done
cat >/etc/libvirt/qemu.conf <<-'END'
	user = "root"
	group = "root"
	security_driver = "none"
	stdio_handler = "logd"
	remember_owner = 0
	namespaces = []
	cgroup_controllers = []
END
printf 'auth_unix_rw = "none"\nauth_unix_ro = "none"\nunix_sock_group = "root"\n' >/etc/libvirt/libvirtd.conf

virtlogd >"$BASE/virtlogd.log" 2>&1 &
logd=$!
libvirtd >"$BASE/libvirtd.log" 2>&1 &
libvirtd=$!
end() {
	# VMs that the command left, and libvirt's own helpers, go with it.
	for vm in $(virsh -q -c qemu:///system list --name 2>/dev/null); do virsh -q -c qemu:///system destroy "$vm" || true; done
	for network in $(virsh -q -c qemu:///system net-list --name 2>/dev/null); do virsh -q -c qemu:///system net-destroy "$network" || true; done
	kill "$libvirtd" "$logd" 2>/dev/null || true
	wait "$libvirtd" "$logd" 2>/dev/null || true
}
trap end EXIT
trap 'exit 130' INT TERM HUP
left=60
until virsh -q -c qemu:///system version >/dev/null 2>&1; do
	left=$((left - 1))
	if [ $left = 0 ] || ! kill -0 "$libvirtd" 2>/dev/null; then
		tail -n 20 "$BASE/libvirtd.log" >&2
		echo "with-libvirt.sh: libvirtd does not answer (above: its log); make setup-vm installs what it needs" >&2
		exit 1
	fi
	sleep 1
done
"$@"
