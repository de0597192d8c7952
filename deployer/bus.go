package deployer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Bus runs a NATS client that finds the bus, and a credential that ends with
// it, in its environment. It returns the client's exit status.
func (d *Deployer) Bus(ctx context.Context, command []string, in io.Reader, out, errOut io.Writer) (int, error) {
	x, err := d.load()
	if err != nil {
		return 0, err
	}
	defer x.fleet.Close()
	if len(x.State.Bus) == 0 {
		return 0, errors.New("cannot reach the bus: none has served yet; apply first")
	}
	settings, err := x.credentials.BusSettings(x.State.Bus)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "deploy-bus-")
	if err != nil {
		return 0, fmt.Errorf("cannot make a folder for the credential: %w", err)
	}
	defer os.RemoveAll(dir)
	env := append(os.Environ(), "NATS_URL="+strings.Join(settings.URLs, ","))
	for _, f := range []struct {
		name string
		data []byte
	}{{"NATS_CA", settings.CA}, {"NATS_CERT", settings.Certificate}, {"NATS_KEY", settings.Key}} {
		path := filepath.Join(dir, strings.ToLower(f.name)+".pem")
		if err := os.WriteFile(path, f.data, 0o600); err != nil {
			return 0, fmt.Errorf("cannot write the credential: %w", err)
		}
		env = append(env, f.name+"="+path)
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, in, out, errOut
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot run %s: %w", command[0], err)
	}
	return 0, nil
}
