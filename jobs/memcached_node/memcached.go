// Package memcachednode is the node of the service memcached: a server process for
// each instance, which lets nobody in without a user and a password (SASL). auth.go
// tells the servers who is admitted.
package memcachednode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/servers"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Settings are the service's keys of the configuration file.
type Settings struct {
	Memcached struct {
		Program     string `yaml:"program"`
		RunAs       string `yaml:"run_as"`
		MaxMemoryMB int    `yaml:"max_memory_mb"`
		MaxClients  int    `yaml:"max_clients"`
	} `yaml:"memcached"`
}

// Definition says how the node begins.
func Definition() node.Definition {
	s := &Settings{}
	return node.Definition{
		Name: "memcached", Settings: s,
		Open: func(ctx context.Context, h node.Host) (node.Service, error) { return open(ctx, h, *s) },
	}
}

// service is memcached as a node.Service.
type service struct {
	settings Settings
	host     node.Host
	folder   string // of the servers' folders
	version  string
	account  *servers.Account
	servers  *servers.Servers
	doors    *doors
	work     context.Context

	servers.Readiness // of the servers that were there when the node began
}

func open(ctx context.Context, h node.Host, settings Settings) (*service, error) {
	m := &settings.Memcached
	if m.Program == "" {
		m.Program = "memcached"
	}
	if m.RunAs == "" {
		m.RunAs = "memcache"
	}
	if m.MaxMemoryMB == 0 {
		m.MaxMemoryMB = 16
	}
	if m.MaxClients == 0 {
		m.MaxClients = 200
	}
	if m.MaxMemoryMB < 2 || m.MaxClients < 2 {
		return nil, errors.New("memcached.max_memory_mb and memcached.max_clients must be at least 2")
	}
	if h.Config.Ports.Low == 0 {
		return nil, errors.New("ports is missing: each instance has one")
	}
	version, err := findVersion(ctx, m.Program)
	if err != nil {
		return nil, err
	}
	account, err := servers.LookUp(m.RunAs)
	if err != nil {
		return nil, err
	}
	s := &service{
		settings: settings, host: h, folder: filepath.Join(h.Config.BaseDir, "servers"), version: version, work: ctx,
		account: account, servers: servers.New(account, h.Log),
	}
	s.SetReady(errors.New("the servers are starting"))
	s.doors = &doors{own: account.Own, admits: s.admits, open: map[string]net.Listener{}}
	if err := os.MkdirAll(s.folder, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder of the servers: %w", err)
	}
	return s, nil
}

var (
	versionText = regexp.MustCompile(`memcached (\d+\.\d+)\.`)
	saslOption  = regexp.MustCompile(`(?m)^-S, --enable-sasl`)
)

// findVersion returns the version of a server that has SASL.
func findVersion(ctx context.Context, program string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "-h").Output()
	if err != nil {
		return "", fmt.Errorf("cannot run the memcached server: %w; install memcached", err)
	}
	found := versionText.FindSubmatch(out)
	if found == nil {
		return "", fmt.Errorf("%s does not identify itself as a memcached server: %.100q", program, out)
	}
	if !saslOption.Match(out) {
		return "", fmt.Errorf("%s has no SASL, without which everybody could use every instance; install Debian's memcached", program)
	}
	return string(found[1]), nil
}

// Version is that of the server.
func (s *service) Version() string { return s.version }

// Run starts the servers of all instances and ends them with ctx.
func (s *service) Run(ctx context.Context) error {
	defer s.doors.closeAll()
	defer s.servers.Close()
	s.host.StartAll(ctx, s.serve)
	s.SetReady(nil)
	<-ctx.Done()
	return nil
}

// Provision starts an instance's server and waits until it answers.
func (s *service) Provision(ctx context.Context, i node.Instance) (wire.Credentials, error) {
	if err := s.serve(ctx, i); err != nil {
		return nil, err
	}
	return s.credentials(i, i.User, i.Password), nil
}

// Unprovision ends an instance's server and removes its files.
func (s *service) Unprovision(_ context.Context, i node.Instance) error {
	s.servers.Stop(i.Name)
	s.doors.close(i.Name)
	if err := os.RemoveAll(filepath.Join(s.folder, i.Name)); err != nil {
		return fmt.Errorf("cannot remove the server's files: %w", err)
	}
	return nil
}

// Bind has nothing to do at the server, which may have no connection left for the node:
// the user is one as soon as the node's record says so.
func (s *service) Bind(_ context.Context, i node.Instance, b node.Binding) (wire.Credentials, error) {
	return s.credentials(i, b.User, b.Password), nil
}

// Unbind ends the connections of a user whom the record has already lost. The server
// cannot tell whose a connection is, so it is started anew: what is in the cache goes.
func (s *service) Unbind(_ context.Context, i node.Instance, _ node.Binding) error {
	s.servers.Stop(i.Name)
	return s.start(i)
}

func (s *service) credentials(i node.Instance, user, password string) wire.Credentials {
	return wire.Credentials{
		"hostname": s.host.Address, "host": s.host.Address, "port": i.Port, "user": user, "username": user, "password": password,
	}
}

// admits reports whether somebody is a user of an instance, by the node's records.
func (s *service) admits(instance, user, password string) bool {
	for _, i := range s.host.Instances() {
		if i.Name != instance {
			continue
		}
		for _, b := range append(i.Users(), node.Binding{User: i.User, Password: i.Password}) {
			if b.User == user && equal(b.Password, password) {
				return true
			}
		}
	}
	return false
}

// saslConfiguration lets the SASL library know PLAIN only, and ask the node. Without it
// the library would admit the anonymous.
const saslConfiguration = "pwcheck_method: saslauthd\nsaslauthd_path: " + door + "\nmech_list: plain\nlog_level: 0\n"

// start keeps an instance's server running and does not wait for it.
func (s *service) start(i node.Instance) error {
	folder := filepath.Join(s.folder, i.Name)
	if err := s.account.Folder(folder); err != nil {
		return err
	}
	if err := s.account.Write(filepath.Join(folder, "memcached.conf"), saslConfiguration); err != nil {
		return err
	}
	if err := s.doors.serve(s.work, i.Name, folder); err != nil {
		return err
	}
	m := s.settings.Memcached
	command := servers.Command{
		Program: m.Program,
		Args: []string{
			"-S", "-l", s.host.Address, "-p", strconv.Itoa(i.Port), "-U", "0", "-t", "1",
			"-m", strconv.Itoa(m.MaxMemoryMB), "-c", strconv.Itoa(m.MaxClients),
		},
		Env: []string{"SASL_CONF_PATH=."},
	}
	return s.servers.Start(s.work, i.Name, folder, command)
}

// serve makes sure that an instance's server runs and lets in users only.
func (s *service) serve(ctx context.Context, i node.Instance) error {
	if err := s.start(i); err != nil {
		return err
	}
	for {
		mechanisms, err := askMechanisms(ctx, net.JoinHostPort(s.host.Address, strconv.Itoa(i.Port)))
		switch {
		case err == nil && mechanisms == "PLAIN":
			return nil
		case err == nil:
			s.servers.Stop(i.Name)
			return fmt.Errorf("the server offers the SASL mechanisms %q and not just PLAIN; install libsasl2-modules", mechanisms)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

const (
	askMagic, answerMagic = 0x80, 0x81
	listMechanisms        = 0x20
	headerBytes           = 24
)

// askMechanisms asks a server how clients may say who they are. It tells everybody.
func askMechanisms(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	end, _ := ctx.Deadline()
	if err := conn.SetDeadline(end); err != nil {
		return "", err
	}
	header := make([]byte, headerBytes)
	header[0], header[1] = askMagic, listMechanisms
	if _, err := conn.Write(header); err != nil {
		return "", err
	}
	if _, err := io.ReadFull(conn, header); err != nil {
		return "", err
	}
	length := binary.BigEndian.Uint32(header[8:])
	if header[0] != answerMagic || length > maxField {
		return "", errors.New("it is no memcached server with the binary protocol")
	}
	text := make([]byte, length)
	_, err = io.ReadFull(conn, text)
	return string(text), err
}

// NoSnapshots says why there are none.
func (s *service) NoSnapshots() string {
	return "memcached is a cache: there is nothing in it to keep, so it has no snapshots"
}
