package plugins

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/clusterworks/deploy/agent/host/unpack"
	"github.com/clusterworks/deploy/jobs/wire"
)

// server.xml has PORT where the start script puts the port; web.xml is what every
// web app has besides its own.
var (
	//go:embed tomcat_server.xml
	tomcatServerXML []byte
	//go:embed tomcat_web.xml
	tomcatWebXML []byte
)

// warBytes is the size that a .war may unpack to.
const warBytes = 1 << 30

func javaWeb(s *staging) (start, error) {
	if s.Tomcat == "" {
		return start{}, errors.New("there is no Tomcat on the stager's machine: install Debian's tomcat10-common there, or set tomcat in the stager's configuration")
	}
	if err := s.explodeWar(); err != nil {
		return start{}, err
	}
	if !there(s.SourceDir, "WEB-INF", "web.xml") {
		return start{}, errors.New("this is not a Java web app: it has no WEB-INF/web.xml")
	}
	tomcat := filepath.Join(s.DestDir, "tomcat")
	if err := copyTomcat(s.Tomcat, tomcat); err != nil {
		return start{}, fmt.Errorf("cannot copy Tomcat from %s: %w", s.Tomcat, err)
	}
	resources := filepath.Join(s.DestDir, "resources")
	if err := os.MkdirAll(resources, 0o755); err != nil {
		return start{}, err
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(resources, "server.xml"), tomcatServerXML, 0o644),
		os.WriteFile(filepath.Join(tomcat, "conf", "web.xml"), tomcatWebXML, 0o644),
		s.copyDrivers(filepath.Join(tomcat, "lib")),
	); err != nil {
		return start{}, err
	}
	if _, err := s.moveApp("tomcat/webapps/ROOT"); err != nil {
		return start{}, err
	}
	options := heap(s.Environment) + " -Djava.io.tmpdir=$PWD/tmp" + proxies(s.Environment.Environment)
	return start{
		env:       map[string]string{"CATALINA_OPTS": options + " $CATALINA_OPTS"},
		preamble:  tomcatPreamble,
		dir:       "tomcat",
		command:   "./bin/catalina.sh run",
		stateFile: "tomcat.state",
	}, nil
}

// tomcatPreamble writes server.xml with the port, finds the Java of this machine,
// and says in tomcat.state when the port answers. Tomcat binds it (bindOnInit is
// false in server.xml) once the app has started, so that is the moment.
const tomcatPreamble = `
PORT=
while getopts p: OPTION; do
  [ "$OPTION" = p ] && PORT=$OPTARG
done
if [ -z "$PORT" ]; then
  echo "usage: startup -p PORT" >&2
  exit 1
fi
sed "s/@PORT@/$PORT/" resources/server.xml > tomcat/conf/server.xml
JAVA=$(readlink -f "` + localRuntime + `")
export JRE_HOME="${JAVA%/bin/java}"
rm -f tomcat.state
(
  for ((i = 0; i < 3000; i++)); do
    [ "$i" -gt 0 ] && ! kill -0 "$$" 2> /dev/null && exit
    if (exec 3<> "/dev/tcp/127.0.0.1/$PORT") 2> /dev/null; then
      echo '{"state":"RUNNING"}' > tomcat.state.new && mv tomcat.state.new tomcat.state
      exit
    fi
    sleep 0.1
  done
) &
`

// explodeWar unpacks the only .war of the app's root, unless the app is unpacked
// already, as vmc does it.
func (s *staging) explodeWar() error {
	wars, err := filepath.Glob(filepath.Join(s.SourceDir, "*.war"))
	if err != nil {
		return err
	}
	if there(s.SourceDir, "WEB-INF") || len(wars) != 1 {
		return nil
	}
	folder := s.SourceDir + ".war"
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	if err := unpack.Zip(context.Background(), wars[0], folder, unpack.Options{Bytes: warBytes, Public: true}); err != nil {
		return fmt.Errorf("cannot unpack %s: %w", filepath.Base(wars[0]), err)
	}
	s.SourceDir = folder
	return nil
}

// copyTomcat takes what runs apps of a Tomcat's home, wherever its links lead
// (Debian's lead to /usr/share/java), and no app, configuration or log.
func copyTomcat(from, to string) error {
	for _, folder := range []string{"bin", "lib", "conf", "logs", "temp", "webapps", "work"} {
		if err := os.MkdirAll(filepath.Join(to, folder), 0o755); err != nil {
			return err
		}
	}
	for _, folder := range []string{"bin", "lib"} {
		entries, err := os.ReadDir(filepath.Join(from, folder))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			source := filepath.Join(from, folder, entry.Name())
			// A link whose package is not installed is of what is not needed.
			if info, err := os.Stat(source); errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
				continue
			}
			if err := copyFile(source, filepath.Join(to, folder, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyDrivers adds the JDBC drivers of bound databases, where the machine has
// them (Debian's packages libpostgresql-jdbc-java, libmariadb-java).
func (s *staging) copyDrivers(lib string) error {
	drivers := map[string][]string{
		"postgresql": {"postgresql.jar"},
		"mysql":      {"mysql-connector-java.jar", "mariadb-java-client.jar"},
	}
	for _, service := range s.Environment.Services {
		name, _, _ := strings.Cut(service.Label, "-")
		for _, jar := range drivers[name] {
			source, target := filepath.Join("/usr/share/java", jar), filepath.Join(lib, jar)
			if !there(source) || there(target) {
				continue
			}
			if err := copyFile(source, target); err != nil {
				return fmt.Errorf("cannot copy the JDBC driver: %w", err)
			}
			s.say("added the JDBC driver %s for %s", jar, service.Label)
		}
	}
	return nil
}

// heap gives Java's heap what an app's quota leaves beside classes, code, threads and
// buffers: a quarter, and 64 MB at least. A heap that may grow to the quota is never
// full: the kernel ends the app where Java would have thrown an OutOfMemoryError.
func heap(p wire.StagingProperties) string {
	quota := p.Resources.Memory
	return fmt.Sprintf("-Xmx%dm", max(quota-max(quota/4, 64), quota/4, 8))
}

// proxies are Java's properties for the proxy variables of an app.
func proxies(environment []string) string {
	var properties strings.Builder
	for _, variable := range environment {
		name, value, _ := strings.Cut(variable, "=")
		scheme, isProxy := strings.CutSuffix(strings.ToLower(name), "_proxy")
		if !isProxy || (scheme != "http" && scheme != "https") {
			continue
		}
		u, err := url.Parse(value)
		// These go into a script: a host has letters, digits, dots and dashes.
		if err != nil || u.Hostname() == "" || strings.ContainsFunc(u.Hostname(), notInHost) {
			continue
		}
		fmt.Fprintf(&properties, " -D%s.proxyHost=%s", scheme, u.Hostname())
		if u.Port() != "" {
			fmt.Fprintf(&properties, " -D%s.proxyPort=%s", scheme, u.Port())
		}
	}
	return properties.String()
}

func notInHost(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-')
}
