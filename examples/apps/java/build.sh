#!/bin/sh
# Makes hello.war in the folder given (default: target), with Debian's packages
# openjdk-17-jdk-headless and tomcat10-common (the servlet API).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-$here/target}"
target=$(cd "${1:-$here/target}" && pwd)
rm -rf "$target/war"
mkdir -p "$target/war/WEB-INF/classes"
cp "$here/WEB-INF/web.xml" "$target/war/WEB-INF/"
javac --release 11 -classpath /usr/share/tomcat10/lib/servlet-api.jar -d "$target/war/WEB-INF/classes" "$here/WEB-INF/src/Hello.java"
jar --create --file "$target/hello.war" -C "$target/war" .
rm -rf "$target/war"
echo "$target/hello.war"
