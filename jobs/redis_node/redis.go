// Package redisnode is the node of the service redis: a server process for each
// instance, with a user for each binding. acl.go says what users may do.
package redisnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/servers"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Settings are the service's keys of the configuration file.
type Settings struct {
	Redis struct {
		Program     string `yaml:"program"`
		RunAs       string `yaml:"run_as"`
		MaxMemoryMB int    `yaml:"max_memory_mb"`
		MaxClients  int    `yaml:"max_clients"`
		AppendFsync string `yaml:"append_fsync"`
	} `yaml:"redis"`
}

// Definition says how the node begins.
func Definition() node.Definition {
	s := &Settings{}
	return node.Definition{
		Name: "redis", Settings: s,
		Open: func(ctx context.Context, h node.Host) (node.Service, error) { return open(ctx, h, *s) },
	}
}

// service is Redis as a node.Service.
type service struct {
	settings Settings
	host     node.Host
	folder   string // of the servers' folders
	version  string
	account  *servers.Account
	servers  *servers.Servers
	work     context.Context

	servers.Readiness // of the servers that were there when the node began

	mu      sync.Mutex
	clients map[string]*redis.Client // of each instance, as its administrator
}

func open(ctx context.Context, h node.Host, settings Settings) (*service, error) {
	r := &settings.Redis
	if r.Program == "" {
		r.Program = "redis-server"
	}
	if r.RunAs == "" {
		r.RunAs = "redis"
	}
	if r.MaxMemoryMB == 0 {
		r.MaxMemoryMB = 16
	}
	if r.MaxClients == 0 {
		r.MaxClients = 200
	}
	if r.AppendFsync == "" {
		r.AppendFsync = "always"
	}
	if r.MaxMemoryMB < 1 || r.MaxClients < 10 || r.AppendFsync != "always" && r.AppendFsync != "everysec" {
		return nil, errors.New("redis.max_memory_mb must be at least 1, redis.max_clients at least 10, and redis.append_fsync always or everysec")
	}
	if h.Config.Ports.Low == 0 {
		return nil, errors.New("ports is missing: each instance has one")
	}
	version, err := findVersion(ctx, r.Program)
	if err != nil {
		return nil, err
	}
	account, err := servers.LookUp(r.RunAs)
	if err != nil {
		return nil, err
	}
	s := &service{
		settings: settings, host: h, folder: filepath.Join(h.Config.BaseDir, "servers"), version: version, work: ctx,
		account: account, servers: servers.New(account, h.Log),
		clients: map[string]*redis.Client{},
	}
	s.SetReady(errors.New("the servers are starting"))
	if err := os.MkdirAll(s.folder, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder of the servers: %w", err)
	}
	return s, nil
}

var versionText = regexp.MustCompile(`v=(\d+\.\d+)\.`)

func findVersion(ctx context.Context, program string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("cannot run the Redis server: %w; install redis-server", err)
	}
	found := versionText.FindSubmatch(out)
	if found == nil {
		return "", fmt.Errorf("%s does not identify itself as a Redis server: %.100q", program, out)
	}
	return string(found[1]), nil
}

// Version is that of the server.
func (s *service) Version() string { return s.version }

// Run starts the servers of all instances and ends them with ctx.
func (s *service) Run(ctx context.Context) error {
	defer s.end()
	s.host.StartAll(ctx, func(ctx context.Context, i node.Instance) error { return s.serve(ctx, i, i.Users()) })
	s.SetReady(nil)
	<-ctx.Done()
	return nil
}

func (s *service) end() {
	s.SetReady(errors.New("the node ends"))
	s.mu.Lock()
	for _, c := range s.clients {
		c.Close()
	}
	s.mu.Unlock()
	s.servers.Close()
}

// Provision starts an instance's server and waits until it answers.
func (s *service) Provision(ctx context.Context, i node.Instance) (wire.Credentials, error) {
	if err := s.serve(ctx, i, i.Users()); err != nil {
		return nil, err
	}
	return s.credentials(i, i.User, i.Password), nil
}

func (s *service) credentials(i node.Instance, user, password string) wire.Credentials {
	return wire.Credentials{
		"hostname": s.host.Address, "host": s.host.Address, "port": i.Port, "user": user, "username": user, "password": password,
	}
}

// serve makes sure that an instance's server runs and admits these users.
func (s *service) serve(ctx context.Context, i node.Instance, users []node.Binding) error {
	folder := filepath.Join(s.folder, i.Name)
	if err := s.account.Folder(folder); err != nil {
		return err
	}
	if err := s.write(i, "redis.conf", s.configuration(i)); err != nil {
		return err
	}
	if err := s.write(i, "users.acl", aclFile(i, users)); err != nil {
		return err
	}
	if err := s.servers.Start(s.work, i.Name, folder, s.command()); err != nil {
		return err
	}
	return waitForServer(ctx, s.admin(i))
}

// command runs a server in a folder that has its configuration. A script may go beyond
// maxmemory, which is looked at when it begins: so that it does not take the other
// servers' memory as well, the kernel bounds the process.
func (s *service) command() servers.Command {
	most := int64(8*s.settings.Redis.MaxMemoryMB+1024) << 20
	return servers.Command{Program: "prlimit", Args: []string{fmt.Sprint("--as=", most), s.settings.Redis.Program, "-"}, Stdin: "redis.conf"}
}

// waitForServer waits until a server answers its administrator.
func waitForServer(ctx context.Context, admin *redis.Client) error {
	for {
		err := admin.Ping(ctx).Err()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (s *service) write(i node.Instance, name, text string) error {
	return s.account.Write(filepath.Join(s.folder, i.Name, name), text)
}

// configuration is a server's file. Everything that it keeps is in its folder.
func (s *service) configuration(i node.Instance) string {
	r := s.settings.Redis
	return strings.Join([]string{
		"bind " + s.host.Address,
		"port " + strconv.Itoa(i.Port),
		"protected-mode no", // nobody is let in without a password
		"daemonize no",
		"loglevel warning",
		"logfile \"\"",
		"aclfile users.acl",
		"maxmemory " + strconv.Itoa(r.MaxMemoryMB) + "mb",
		"maxmemory-policy noeviction",
		"maxclients " + strconv.Itoa(r.MaxClients),
		"maxmemory-clients " + strconv.Itoa(max(4, r.MaxMemoryMB/2)) + "mb",
		"timeout 0",
		"tcp-keepalive 60",
		"save \"\"",
		"appendonly yes",
		"appendfsync " + r.AppendFsync,
		"auto-aof-rewrite-percentage 100",
		"auto-aof-rewrite-min-size 16mb",
		"aof-load-truncated yes", // the end of what was not acknowledged
		"acllog-max-len 16",
		"",
	}, "\n")
}

// admin returns a client of an instance's server that may do everything. It keeps its
// connection, so that it is there when users have taken all others.
func (s *service) admin(i node.Instance) *redis.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, is := s.clients[i.Name]
	if !is {
		c = redis.NewClient(&redis.Options{
			Addr: net.JoinHostPort(s.host.Address, strconv.Itoa(i.Port)), Username: administrator, Password: i.Secret,
			PoolSize: 2, MinIdleConns: 1, ConnMaxIdleTime: -1, MaxRetries: -1, DialTimeout: time.Second, ReadTimeout: 5 * time.Second,
			DisableIdentity: true, ContextTimeoutEnabled: true,
		})
		s.clients[i.Name] = c
	}
	return c
}

// Unprovision ends an instance's server and removes its files.
func (s *service) Unprovision(_ context.Context, i node.Instance) error {
	s.stop(i)
	if err := os.RemoveAll(filepath.Join(s.folder, i.Name)); err != nil {
		return fmt.Errorf("cannot remove the server's files: %w", err)
	}
	return nil
}

// Bind makes a user of an instance's server.
func (s *service) Bind(ctx context.Context, i node.Instance, b node.Binding) (wire.Credentials, error) {
	users := append(i.Users(), b)
	if err := s.write(i, "users.acl", aclFile(i, users)); err != nil {
		return nil, err
	}
	if i.Disabled {
		return s.credentials(i, b.User, b.Password), nil // Enable lets it in
	}
	admin := s.admin(i)
	for _, command := range admit(b) {
		if err := admin.Do(ctx, command...).Err(); err != nil {
			return nil, fmt.Errorf("the server does not take the user: %w", err)
		}
	}
	return s.credentials(i, b.User, b.Password), nil
}

// Unbind removes a user and ends its connections, and those of clients that have
// given a password only: whose they are, the server does not know.
func (s *service) Unbind(ctx context.Context, i node.Instance, b node.Binding) error {
	left := []node.Binding{}
	for _, other := range i.Users() {
		if other.User != b.User {
			left = append(left, other)
		}
	}
	if err := s.write(i, "users.acl", aclFile(i, left)); err != nil {
		return err
	}
	admin := s.admin(i)
	for _, command := range dismiss(b) {
		err := admin.Do(ctx, command...).Err()
		if err != nil && !strings.Contains(err.Error(), "No such") && !strings.Contains(err.Error(), "does not exist") {
			return fmt.Errorf("the server does not remove the user: %w", err)
		}
	}
	return nil
}
