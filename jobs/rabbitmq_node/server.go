package rabbitmqnode

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/component/node/servers"
)

const (
	startTime  = 5 * time.Minute // a server has to begin, on a slow machine with many messages
	checkEvery = 5 * time.Second // of a server that runs
	checkTime  = 10 * time.Second
	retryCheck = 100 * time.Millisecond // of one that starts
)

// installation is a RabbitMQ server that was found on the machine.
type installation struct {
	program string // its own script, not Debian's around it, which chooses user and folders
	epmd    string
	version string // "3.10"
}

var versionText = regexp.MustCompile(`/rabbitmq_server-(\d+\.\d+)\.[^/]*/sbin/rabbitmq-server$`)

// find returns the server that a program belongs to.
func find(program string) (installation, error) {
	missing := func(err error) (installation, error) {
		return installation{}, fmt.Errorf("cannot find the RabbitMQ server: %w; install rabbitmq-server", err)
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return missing(err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return missing(err)
	}
	own, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(path), "rabbitmq-server"))
	if err != nil {
		return missing(err)
	}
	version := versionText.FindStringSubmatch(own)
	if version == nil {
		return missing(fmt.Errorf("%s is in no folder of a version of it", own))
	}
	epmd, err := exec.LookPath("epmd")
	if err != nil {
		return missing(err)
	}
	return installation{own, epmd, version[1]}, nil
}

// Run keeps the server running until ctx ends.
func (s *service) Run(ctx context.Context) error {
	defer s.servers.Close()
	for ctx.Err() == nil {
		if err := s.once(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("the server is started anew", "error", err)
		}
		s.set(nil, errors.New("the server is starting"))
	}
	return nil
}

func (s *service) set(api *management, ready error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.api, s.ready = api, ready
}

// once starts a server, on ports of the loopback that are free now, and watches it
// until it has to be started on others.
func (s *service) once(ctx context.Context) error {
	folder := filepath.Join(s.host.Config.BaseDir, "server")
	api, err := s.start(ctx, folder)
	defer s.servers.Stop("epmd")
	defer s.servers.Stop("rabbitmq")
	if err != nil {
		// Not at once again: it would fail again.
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		return err
	}
	defer api.client.CloseIdleConnections()
	ready, wait := false, retryCheck
	for silent := time.Now(); ; {
		err := s.look(ctx, api, ready)
		if err == nil {
			ready, silent, wait = true, time.Now(), checkEvery
			s.set(api, nil)
		} else if ready {
			// It has ended perhaps, and is started again by whoever keeps it.
			ready, wait = false, retryCheck
			s.set(nil, fmt.Errorf("the server does not answer: %w", err))
			if ctx.Err() == nil {
				s.log.Error("the server does not answer", "error", err)
			}
		}
		if time.Since(silent) > startTime {
			return fmt.Errorf("the server has not answered for %s: %w", startTime, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// look asks the server whether it serves, and restores what it lacks if it did not
// before.
func (s *service) look(ctx context.Context, api *management, served bool) error {
	quick, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	if err := api.check(quick, strconv.Itoa(s.settings.RabbitMQ.Port)); err != nil || served {
		return err
	}
	long, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return s.restore(long, api)
}

// start writes the server's files and has it started.
func (s *service) start(ctx context.Context, folder string) (*management, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	epmdPort, distribution, managementPort := strconv.Itoa(ports[0]), strconv.Itoa(ports[1]), ports[2]
	password, cookie := rand.Text(), rand.Text()
	hash, err := hashed(password)
	if err != nil {
		return nil, err
	}
	definitions, err := json.Marshal(map[string]any{
		"users": []any{map[string]any{"name": administrator, "password_hash": hash, "hashing_algorithm": hashing, "tags": []string{"administrator"}}},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot write the server's definitions: %w", err)
	}
	if err := s.account.Folder(folder); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{
		"rabbitmq.conf":    s.configuration(managementPort),
		"definitions.json": string(definitions),
		"enabled_plugins":  "[rabbitmq_management].\n",
		".erlang.cookie":   cookie,
	} {
		if err := s.account.Write(filepath.Join(folder, name), text); err != nil {
			return nil, err
		}
	}
	// Erlang's name server, which would start by itself, as a daemon, and outlive all.
	names := filepath.Join(s.host.Config.BaseDir, "epmd")
	if err := s.account.Folder(names); err != nil {
		return nil, err
	}
	if err := s.servers.Start(ctx, "epmd", names, servers.Command{Program: s.found.epmd, Args: []string{"-address", "127.0.0.1", "-port", epmdPort}}); err != nil {
		return nil, err
	}
	if err := waitForPort(ctx, ports[0]); err != nil {
		return nil, err
	}
	err = s.servers.Start(ctx, "rabbitmq", folder, servers.Command{Program: s.found.program, Env: []string{
		"HOME=" + here,
		"RABBITMQ_NODENAME=rabbit@localhost",
		"RABBITMQ_CONF_ENV_FILE=" + here + "/no-environment", // not the machine's
		"RABBITMQ_CONFIG_FILE=" + here + "/rabbitmq.conf",
		"RABBITMQ_ADVANCED_CONFIG_FILE=" + here + "/no-advanced.config",
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + here + "/enabled_plugins",
		"RABBITMQ_MNESIA_BASE=" + here + "/mnesia",
		"RABBITMQ_LOG_BASE=" + here + "/log",
		"RABBITMQ_LOGS=-",
		"RABBITMQ_DIST_PORT=" + distribution,
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"ERL_EPMD_PORT=" + epmdPort,
		// The script becomes the server, rather than to wait for it: it would outlive
		// the script otherwise.
		"RUNNING_UNDER_SYSTEMD=yes", "NOTIFY_SOCKET=",
		// Other machines do not reach the distribution, and an idle server is idle.
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
	}})
	return newManagement(managementPort, password), err
}

// here is the server's folder, on whose way there may be folders that are closed to the
// server's user.
const here = "/proc/self/cwd"

// configuration is the server's file. There is no user guest, since there are
// definitions to load.
func (s *service) configuration(managementPort int) string {
	r := s.settings.RabbitMQ
	return strings.Join([]string{
		"listeners.tcp.1 = " + net.JoinHostPort(s.host.Address, strconv.Itoa(r.Port)),
		"management.tcp.ip = 127.0.0.1",
		"management.tcp.port = " + strconv.Itoa(managementPort),
		"management.rates_mode = none",
		"load_definitions = " + here + "/definitions.json",
		"vm_memory_high_watermark.absolute = " + strconv.Itoa(r.MemoryMB) + "MiB",
		"disk_free_limit.absolute = 256MiB",
		"max_message_size = " + strconv.Itoa(r.Limits.MessageMB<<20),
		"channel_max = " + strconv.Itoa(r.Limits.Channels),
		"heartbeat = 60",
		"log.console = true",
		"log.console.level = warning",
		"log.file = false",
		"",
	}, "\n")
}

// freePorts returns ports of the loopback on which nobody listens.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("cannot find a free port for the server: %w", err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func waitForPort(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the name server of Erlang does not begin: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
