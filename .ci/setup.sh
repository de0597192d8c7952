#!/bin/sh
# Installs what the demo and the tests run and this machine lacks.
# usage: setup.sh PROGRAM... (of those listed below)
set -eu

# The Debian packages that provide a program.
packages_of() {
	case $1 in
	nginx) echo nginx-light ;;
	/usr/lib/nginx/modules/ngx_http_brotli_filter_module.so) echo libnginx-mod-http-brotli-filter ;;
	haproxy) echo haproxy ;;
	keepalived) echo keepalived ;;
	gcc) echo gcc libc6-dev ;; # the race detector needs cgo
	sshd) echo openssh-server ;;
	ip) echo iproute2 ;;
	nft) echo nftables ;;
	pg_ctlcluster) echo postgresql ;;
	redis-server) echo redis-server ;;
	mariadbd) echo mariadb-server ;;
	memcached) echo memcached libsasl2-modules ;;
	rabbitmq-server) echo rabbitmq-server ;;
	curl) echo curl ca-certificates ;;
	chromium) echo chromium ;; # the login page is tested in it
	# Runtimes of apps. On PATH there may be others that only one user can run.
	/usr/bin/node) echo nodejs ;;
	/usr/share/nodejs/express/package.json) echo node-express ;;
	/usr/bin/python3) echo python3 ;;
	/usr/bin/flask) echo python3-flask ;;
	/usr/bin/django-admin) echo python3-django ;;
	/usr/bin/ruby) echo ruby ;;
	/usr/bin/rackup) echo ruby-rack ruby-sinatra ruby-webrick ;;
	/usr/bin/bundle) echo bundler ;;
	/usr/bin/java | /usr/bin/javac) echo openjdk-17-jdk-headless ;;
	/usr/share/tomcat10/bin/catalina.sh) echo tomcat10-common ;;
	/usr/share/java/spring3-web.servlet.jar) echo libspring-web-servlet-java libtomcat9-java ;; # of a program as Spring Boot packs it
	# Images and VMs.
	mmdebstrap) echo mmdebstrap uidmap ;;
	mke2fs | mkfs.ext4) echo e2fsprogs ;;
	sfdisk) echo fdisk ;;
	mkfs.vfat) echo dosfstools ;;
	mcopy) echo mtools ;;
	grub-mkimage) echo grub-common grub-pc-bin grub-efi-amd64-bin ;;
	fakeroot | genisoimage | xsltproc | iptables) echo "$1" ;;
	qemu-img) echo qemu-utils ;;
	qemu-system-x86_64) echo qemu-system-x86 seabios ;;
	libvirtd) echo libvirt-daemon libvirt-daemon-driver-qemu ;;
	virsh) echo libvirt-clients ;;
	dnsmasq) echo dnsmasq-base ;;
	*) echo "setup: no package is known for the program $1" >&2 && return 1 ;;
	esac
}

PATH=$PATH:/usr/sbin:/sbin # nginx is there; an ordinary user's PATH may not be
wanted=
for program in "$@"; do
	# A path may be of a file that is no program.
	case $program in /*) [ -e "$program" ] && continue ;; esac
	command -v "$program" >/dev/null || wanted="$wanted $(packages_of "$program")"
done
[ -n "$wanted" ] || exit 0

command -v apt-get >/dev/null || {
	echo "setup: this machine has no apt; install what Debian calls$wanted and try again" >&2
	exit 1
}
root=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || {
		echo "setup: not root and no sudo; as root: apt-get install$wanted" >&2
		exit 1
	}
	root=sudo
fi

# Debian makes and starts a database at the installation. Nobody asked for that.
case $wanted in
*postgresql*)
	[ -e /etc/postgresql-common/createcluster.conf ] || {
		$root mkdir -p /etc/postgresql-common
		echo "create_main_cluster = false" | $root tee /etc/postgresql-common/createcluster.conf >/dev/null
	}
	;;
esac

echo "setup: installing$wanted"
# Debian starts each server as soon as it is installed (on ports 80, 22, 4369, 5672,
# 6379, 11211). Nobody asked for that: this file says no, as long as we install.
policy=/usr/sbin/policy-rc.d
ours=
if [ ! -e $policy ]; then
	ours=yes
	trap '$root rm -f $policy' EXIT
	printf '#!/bin/sh\nexit 101\n' | $root tee $policy >/dev/null
	$root chmod 755 $policy
fi
install() {
	# shellcheck disable=SC2086 # a list of words
	$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted </dev/null
}
# The package lists may be absent or too old to fetch from; only then are they
# fetched.
install >/dev/null 2>&1 || {
	$root apt-get update -qq </dev/null
	install
}
[ -z "$ours" ] || $root rm -f $policy

# Nor at the next boot.
if [ -d /run/systemd/system ]; then
	for pair in nginx:nginx haproxy:haproxy keepalived:keepalived mariadb-server:mariadb redis-server:redis-server memcached:memcached \
		rabbitmq-server:rabbitmq-server openssh-server:ssh; do
		case $wanted in *${pair%:*}*) $root systemctl disable --now "${pair#*:}" || true ;; esac
	done
fi
