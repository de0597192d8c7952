package plugins

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Config is the file that a plugin is started with: JSON, which is YAML as well.
// The first three keys are the original's contract, the others what our stager
// has on its machine.
type Config struct {
	SourceDir   string                 `json:"source_dir"` // the app's files; the plugin may move them
	DestDir     string                 `json:"dest_dir"`   // becomes the droplet
	Environment wire.StagingProperties `json:"environment"`

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

// missingMark begins the lines of a staging log that say what an app lists and lacks;
// vmc shows them again when the app crashes.
const missingMark = "missing: "

// missing says what the app lists and does not have. It is no failure: the app may
// do without.
func (s *staging) missing(format string, args ...any) { s.say(missingMark+format, args...) }

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
