// Package plugins turns the files of apps into droplets: a plugin a kind of app.
// Plugins run in a process of their own (Main), which the stager starts, limits
// and ends.
package plugins

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Config is the file that a plugin is started with: JSON, which is YAML as well.
// The first four keys are the original's contract, the others what our stager
// has on its machine.
type Config struct {
	SourceDir   string                 `json:"source_dir"` // the app's files; the plugin may move them
	DestDir     string                 `json:"dest_dir"`   // becomes the droplet
	Environment wire.StagingProperties `json:"environment"`
	SecureUser  *User                  `json:"secure_user,omitempty"` // whom the plugin runs as, if not as the stager

	// RuntimePath is the executable of the app's runtime on this machine; "": the
	// runtime has none.
	RuntimePath string `json:"runtime_path,omitempty"`
	// StaticServer is the program that serves static files, Tomcat the folder of
	// a Tomcat; "": there is none here.
	StaticServer string `json:"static_server,omitempty"`
	Tomcat       string `json:"tomcat,omitempty"`
	// FetchDependencies allows npm, bundler and pip to fetch what an app names and
	// does not bring.
	FetchDependencies bool `json:"fetch_dependencies"`
	// External is a program that is this framework's plugin; "": it is built in.
	External string `json:"external,omitempty"`
	// MaxFileBytes bounds every file that the plugin writes; 0: no bound.
	MaxFileBytes uint64 `json:"max_file_bytes,omitempty"`
}

// User is an operating system's.
type User struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// builtin are the plugins of this package, by framework.
func builtin() map[string]func(*staging) (start, error) {
	return map[string]func(*staging) (start, error){
		"binary":     binary,
		"java_web":   javaWeb,
		"node":       node,
		"rack":       rack,
		"sinatra":    sinatra,
		"standalone": standalone,
		"static":     static,
		"wsgi":       wsgi,
	}
}

// Frameworks are those with a built-in plugin, sorted.
func Frameworks() []string { return slices.Sorted(maps.Keys(builtin())) }

// confined is the argument, before the framework, of a process that is limited
// and confined already.
const confined = "confined"

// Main is the plugin process: args are what the stager starts it with (self),
// the framework and the name of the configuration file. It returns the exit
// status; what went wrong is on stderr, for the app's owner.
func Main(self string, args []string, stderr io.Writer) int {
	var err error
	switch {
	case len(args) == 2:
		err = prepare(self, args[0], args[1])
	case len(args) == 3 && args[0] == confined:
		err = run(args[1], args[2])
	default:
		fmt.Fprintf(stderr, "usage: %s FRAMEWORK CONFIG\n", self)
		return 2
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// prepare limits and confines this process and makes it the plugin: a program of
// its own, or this one once more.
func prepare(self, framework, file string) error {
	cfg, err := readConfig(file)
	if err != nil {
		return err
	}
	if err := limit(cfg); err != nil {
		return err
	}
	if cfg.External != "" {
		return execute(cfg, cfg.External, framework, file)
	}
	if _, ok := builtin()[framework]; !ok {
		return fmt.Errorf("there is no plugin for framework %s; there are %s", framework, strings.Join(Frameworks(), ", "))
	}
	return execute(cfg, "/proc/self/exe", self, confined, framework, file)
}

func readConfig(file string) (Config, error) {
	var cfg Config
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &cfg)
	}
	if err != nil {
		return Config{}, fmt.Errorf("cannot read the plugin's configuration: %w", err)
	}
	return cfg, nil
}

func run(framework, file string) error {
	cfg, err := readConfig(file)
	if err != nil {
		return err
	}
	plugin, ok := builtin()[framework]
	if !ok {
		return fmt.Errorf("there is no plugin for framework %s", framework)
	}
	return stage(cfg, plugin)
}

// limit holds this process, and what it starts, to what the machine can bear.
func limit(cfg Config) error {
	limits := map[int]uint64{unix.RLIMIT_CORE: 0}
	if cfg.MaxFileBytes > 0 {
		limits[unix.RLIMIT_FSIZE] = cfg.MaxFileBytes
	}
	for which, value := range limits {
		if err := unix.Setrlimit(which, &unix.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("cannot limit the plugin: %w", err)
		}
	}
	unix.Umask(0o022)
	return nil
}

// staging is one app on its way to a droplet.
type staging struct {
	Config
	log io.Writer // logs/staging.log, which the app's owner can read
}

func stage(cfg Config, plugin func(*staging) (start, error)) (err error) {
	for _, folder := range []string{"logs", "tmp"} {
		if err := os.MkdirAll(filepath.Join(cfg.DestDir, folder), 0o755); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(filepath.Join(cfg.DestDir, "logs", "staging.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	s := &staging{Config: cfg, log: log}
	how, err := plugin(s)
	if err != nil {
		return err
	}
	return s.writeScripts(how)
}

// say writes a line for the app's owner.
func (s *staging) say(format string, args ...any) {
	fmt.Fprintf(s.log, format+"\n", args...)
}

// moveApp makes the app's files a folder of the droplet, and returns its path.
func (s *staging) moveApp(to string) (string, error) {
	folder := filepath.Join(s.DestDir, to)
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(s.SourceDir, folder); err != nil {
		return "", fmt.Errorf("cannot take the app's files: %w", err)
	}
	return folder, nil
}

// command runs a program in a folder with what it prints in the staging log. The
// environment is the plugin's, which holds no secret, and env.
func (s *staging) command(folder string, env []string, name string, args ...string) error {
	s.say("$ %s %s", filepath.Base(name), strings.Join(args, " "))
	cmd := exec.Command(name, args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s failed, see the staging log: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	return nil
}

// copyFile copies a file's text and mode; a link's target, not the link.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", from)
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm()|0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// there says whether a file or folder exists, links followed.
func there(elements ...string) bool {
	_, err := os.Stat(filepath.Join(elements...))
	return err == nil
}
