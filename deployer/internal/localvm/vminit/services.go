package vminit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

const (
	// A service that ends is started again after respawnFirst, doubled each time
	// up to respawnMost; one that ran for respawnReset begins anew.
	respawnFirst = 100 * time.Millisecond
	respawnMost  = 5 * time.Second
	respawnReset = 10 * time.Second
	// serviceLogMax bytes of a service's log are kept, and as much of the one before.
	serviceLogMax = 8 << 20
)

// serviceFile is <name>.json in the services folder.
type serviceFile struct {
	Command []string          `json:"command"`
	Env     map[string]string `json:"env"`
}

// services are the boot services of a VM.
type services struct {
	init    *vmInit
	ctx     context.Context
	cancel  context.CancelFunc
	running map[string]*service
	owned   sync.WaitGroup
}

type service struct {
	data   []byte // of its file
	cancel context.CancelFunc
	done   chan struct{}
}

func newServices(v *vmInit) *services {
	s := &services{init: v, running: map[string]*service{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// close stops all and waits for their end.
func (s *services) close() {
	s.cancel()
	s.owned.Wait()
}

// reload makes what runs follow the folder. It does not wait for the end of
// what is replaced; the replacement does. A file that cannot be read leaves its
// service as it is.
func (s *services) reload() error {
	folder := filepath.Join(s.init.Dir, localvm.ServicesFolder)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("cannot list boot services: %w", err)
	}
	var errs []error
	listed := map[string]bool{}
	for _, entry := range entries {
		name, isService := strings.CutSuffix(entry.Name(), ".json")
		if !isService || strings.HasPrefix(name, ".") {
			continue
		}
		listed[name] = true
		path := filepath.Join(folder, entry.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot read boot service: %w", err))
			continue
		}
		old := s.running[name]
		if old != nil && bytes.Equal(old.data, data) {
			continue
		}
		file, err := readService(data)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot start boot service %s: %w", path, err))
			continue
		}
		s.begin(name, data, file, old)
	}
	for name, old := range s.running {
		if !listed[name] {
			old.cancel()
			delete(s.running, name)
		}
	}
	return errors.Join(errs...)
}

// readService reads what is in the file of a service.
func readService(data []byte) (serviceFile, error) {
	var file serviceFile
	if err := json.Unmarshal(data, &file); err != nil {
		return file, err
	}
	if len(file.Command) == 0 {
		return file, errors.New("it has no command")
	}
	return file, nil
}

// kept are the files of what runs.
func (s *services) kept() []localvm.Kept {
	var out []localvm.Kept
	for name, x := range s.running {
		out = append(out, localvm.Kept{
			Name: filepath.Join(localvm.ServicesFolder, name+".json"), Data: x.data,
			Possible: func(data []byte) bool {
				_, err := readService(data)
				return err == nil
			},
		})
	}
	return out
}

func (s *services) begin(name string, data []byte, file serviceFile, old *service) {
	if old == nil {
		s.relieve(file.Command)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	next := &service{data: data, cancel: cancel, done: make(chan struct{})}
	s.running[name] = next
	s.owned.Go(func() {
		defer close(next.done)
		if old != nil {
			old.cancel()
			<-old.done
		}
		s.keep(ctx, name, file)
	})
}

// relieve asks what an earlier init, killed, has left of a service to end: this
// init could not tell when that ends, and would run the service a second time.
// The agent leaves what it supervises running.
func (s *services) relieve(command []string) {
	left, err := localvm.ProcessesWith(func(id string) bool { return id == s.init.ID })
	if err != nil {
		s.init.Log.Warn("cannot find the services of an earlier init", "error", err)
		return
	}
	for _, p := range left {
		proc, err := procfs.NewProc(p.PID)
		if err != nil {
			continue // it has just ended
		}
		if runs, err := proc.CmdLine(); err == nil && slices.Equal(runs, command) {
			s.init.Log.Info("ending a service of an earlier init", "command", command[0], "pid", p.PID)
			p.Signal(syscall.SIGTERM)
		}
	}
}

// keep runs a service again and again until ctx ends.
func (s *services) keep(ctx context.Context, name string, file serviceFile) {
	log := s.init.Log.With("service", name)
	wait := respawnFirst
	for ctx.Err() == nil {
		started := time.Now()
		cmd, ended, err := s.start(name, file)
		if err != nil {
			log.Error("cannot start", "error", err)
		} else {
			log.Info("started", "pid", cmd.Process.Pid)
			select {
			case status := <-ended:
				log.Warn("ended", "pid", cmd.Process.Pid, "status", describe(status))
			case <-ctx.Done():
				s.stop(cmd, ended)
				log.Info("stopped", "pid", cmd.Process.Pid)
				return
			}
		}
		if time.Since(started) >= respawnReset {
			wait = respawnFirst
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, respawnMost)
	}
}

func (s *services) start(name string, file serviceFile) (*exec.Cmd, <-chan unix.WaitStatus, error) {
	logTo, err := s.openLog(name)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = logTo.Close() }()
	cmd := exec.Command(file.Command[0], file.Command[1:]...)
	cmd.Dir = s.init.Dir
	for key, value := range file.Env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	cmd.Env = append(append([]string{}, s.init.env...), cmd.Env...)
	cmd.Env = append(cmd.Env, localvm.EnvVM+"="+s.init.ID) // whatever the file says: by this it is found
	cmd.Stdout, cmd.Stderr = logTo, logTo
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	ended, err := s.init.children.start(cmd, cmd.Start)
	return cmd, ended, err
}

// openLog hands a service a plain file, not a pipe of ours: it shall go on
// when this init is killed.
func (s *services) openLog(name string) (*os.File, error) {
	path := filepath.Join(s.init.Dir, localvm.LogFolder, name+".log")
	if info, err := os.Stat(path); err == nil && info.Size() > serviceLogMax {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

func (s *services) stop(cmd *exec.Cmd, ended <-chan unix.WaitStatus) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(localvm.ServiceGrace):
		_ = cmd.Process.Kill()
		<-ended
	}
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "signal " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("status %d", status.ExitStatus())
}
