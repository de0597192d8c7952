package deployer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/renameio/v2"
	cryptossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Reach describes how an operator reaches a deployment's VMs and its bus by hand.
type Reach struct{ d *Deployer }

// Reach returns the deployment's.
func (d *Deployer) Reach() Reach { return Reach{d} }

// SSHHost is a VM as a configuration of OpenSSH names it.
type SSHHost struct {
	Instance string `json:"instance"`
	Alias    string `json:"alias"` // GROUP-INDEX: scp takes what has a slash for a file
	Host     string `json:"host"`
	Port     int    `json:"port"`
	User     string `json:"user"`
	hostKey  string
	keyFile  string // of the user's own; "" for the deployment's key
	agent    bool   // the user's SSH agent has the key
}

// sshHosts returns all VMs whose host key is known.
func (r Reach) sshHosts(x *deployment) ([]SSHHost, error) {
	var hosts []SSHHost
	for id, vm := range x.State.VMs {
		if vm.HostKey == "" || vm.SSHHost == "" {
			continue
		}
		h := SSHHost{Instance: id, Alias: strings.ReplaceAll(id, "/", "-"), Host: vm.SSHHost, Port: vm.SSHPort, User: vm.SSHUser, hostKey: vm.HostKey}
		if h.Port == 0 {
			h.Port = 22
		}
		if h.agent = vm.PrivateKeyFile == state.SSHAgent; !h.agent && vm.PrivateKeyFile != "" {
			var err error
			if h.keyFile, err = fleet.KeyFile(r.d.source.Dir(), vm.PrivateKeyFile); err != nil {
				return nil, err
			}
		}
		hosts = append(hosts, h)
	}
	slices.SortFunc(hosts, func(a, b SSHHost) int { return session.CompareIDs(a.Instance, b.Instance) })
	if len(hosts) == 0 {
		return nil, errors.New("cannot tell how to reach the VMs: there are none whose host key is known; apply first")
	}
	return hosts, nil
}

// writeSSHConfig writes a configuration and the host keys that it accepts into a
// folder. identity are the lines that name the deployment's key.
func writeSSHConfig(dir string, hosts []SSHHost, identity string) (path string, err error) {
	var config, known bytes.Buffer
	knownHosts := filepath.Join(dir, "known_hosts")
	for _, h := range hosts {
		fmt.Fprintf(&known, "%s %s\n", h.Alias, strings.TrimSpace(h.hostKey))
		fmt.Fprintf(&config, "Host %s\n  HostName %s\n  Port %d\n  User %s\n  HostKeyAlias %s\n  UserKnownHostsFile %s\n",
			h.Alias, h.Host, h.Port, h.User, h.Alias, quoteSSH(knownHosts))
		config.WriteString("  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n  CheckHostIP no\n  UpdateHostKeys no\n  PasswordAuthentication no\n  KbdInteractiveAuthentication no\n")
		switch {
		case h.agent: // as OpenSSH does by itself
		case h.keyFile != "":
			fmt.Fprintf(&config, "  IdentitiesOnly yes\n  IdentityFile %s\n", quoteSSH(h.keyFile))
		default:
			config.WriteString("  IdentitiesOnly yes\n" + identity)
		}
	}
	if err := renameio.WriteFile(knownHosts, known.Bytes(), 0o600); err != nil {
		return "", fmt.Errorf("cannot write the host keys: %w", err)
	}
	path = filepath.Join(dir, "config")
	if err := renameio.WriteFile(path, config.Bytes(), 0o600); err != nil {
		return "", fmt.Errorf("cannot write the configuration of ssh: %w", err)
	}
	return path, nil
}

// quoteSSH makes a path one word of ssh_config, in which % begins a token.
func quoteSSH(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(path) + `"`
}

// WriteSSHConfig writes a configuration of OpenSSH into a folder, with the
// deployment's private key, and returns the hosts that it names.
func (r Reach) WriteSSHConfig(dir string) ([]SSHHost, error) {
	x, err := loadTold(r.d)
	if err != nil {
		return nil, err
	}
	defer x.fleet.Close()
	hosts, err := r.sshHosts(x)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder: %w", err)
	}
	if info, err := os.Stat(dir); err != nil {
		return nil, err
	} else if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("cannot write the key into %s: others may change the folder (mode %04o); choose one of your own", dir, info.Mode().Perm())
	}
	key := filepath.Join(dir, "key")
	if err := renameio.WriteFile(key, []byte(x.Secrets.SSH.PrivateKey), 0o600); err != nil {
		return nil, fmt.Errorf("cannot write the key: %w", err)
	}
	_, err = writeSSHConfig(dir, hosts, "  IdentityFile "+quoteSSH(key)+"\n")
	return hosts, err
}

// SCPRequest is a copy of files.
type SCPRequest struct {
	// Paths are sources and the target; those on a VM are named GROUP/INDEX:PATH.
	Paths               []string
	Recursive, Preserve bool
	Streams             Streams
}

// SCP copies files with the machine's scp, which is lent the deployment's key by an
// SSH agent of ours, and returns its exit status.
func (r Reach) SCP(ctx context.Context, q SCPRequest) (int, error) {
	x, err := loadTold(r.d)
	if err != nil {
		return 0, err
	}
	defer x.fleet.Close()
	program, err := exec.LookPath("scp")
	if err != nil {
		return 0, fmt.Errorf("cannot copy: this machine has no scp: %w; install OpenSSH's client", err)
	}
	hosts, err := r.sshHosts(x)
	if err != nil {
		return 0, err
	}
	command := []string{program, "-F", "", "-B"}
	if q.Recursive {
		command = append(command, "-r")
	}
	if q.Preserve {
		command = append(command, "-p")
	}
	command = append(command, "--")
	remote := false
	for _, path := range q.Paths {
		word, is, err := scpPath(path, hosts)
		if err != nil {
			return 0, err
		}
		remote = remote || is
		command = append(command, word)
	}
	if !remote {
		return 0, errors.New("cannot copy: none of the paths is on a VM; name it GROUP/INDEX:PATH")
	}
	dir, err := os.MkdirTemp("", "deploy-scp-")
	if err != nil {
		return 0, fmt.Errorf("cannot make a folder for the configuration of ssh: %w", err)
	}
	defer os.RemoveAll(dir)
	public, stop, err := lendKey(ctx, filepath.Join(dir, "agent"), []byte(x.Secrets.SSH.PrivateKey))
	if err != nil {
		return 0, err
	}
	defer stop()
	publicFile := filepath.Join(dir, "key.pub")
	if err := os.WriteFile(publicFile, public, 0o600); err != nil {
		return 0, fmt.Errorf("cannot write the public key: %w", err)
	}
	if command[2], err = writeSSHConfig(dir, hosts, "  IdentityAgent "+quoteSSH(filepath.Join(dir, "agent"))+"\n  IdentityFile "+quoteSSH(publicFile)+"\n"); err != nil {
		return 0, err
	}
	return runHere(ctx, command, os.Environ(), q.Streams)
}

// scpPath turns GROUP/INDEX:PATH into what scp takes for a file there, and any
// other path into what it takes for one here.
func scpPath(path string, hosts []SSHHost) (word string, remote bool, err error) {
	name, rest, found := strings.Cut(path, ":")
	at := slices.IndexFunc(hosts, func(h SSHHost) bool { return found && h.Instance == name })
	if at >= 0 {
		return hosts[at].Alias + ":" + rest, true, nil
	}
	group, index, isInstance := strings.Cut(name, "/")
	if _, numeric := strconv.Atoi(index); found && isInstance && numeric == nil && group != "" && !strings.HasPrefix(group, ".") {
		return "", false, fmt.Errorf("cannot copy %q: there is no instance %s with a VM; see deploy status (a file here of this name is ./%s)", path, name, path)
	}
	if !filepath.IsAbs(path) {
		path = "./" + path // so that a colon in it names no host
	}
	return path, false, nil
}

// lendKey serves an SSH agent with one key at a socket until stop is called, and
// returns its public part. Who uses it cannot read the key.
func lendKey(ctx context.Context, socket string, pem []byte) (public []byte, stop func(), err error) {
	raw, err := cryptossh.ParseRawPrivateKey(pem)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the deployment's SSH key: %w", err)
	}
	signer, err := cryptossh.NewSignerFromKey(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the deployment's SSH key: %w", err)
	}
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: raw, Comment: "deployment"}); err != nil {
		return nil, nil, fmt.Errorf("cannot lend the deployment's SSH key: %w", err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", socket)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot lend the deployment's SSH key: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var owned sync.WaitGroup
	owned.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it is closed
			}
			owned.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				_ = agent.ServeAgent(readOnly{keyring}, conn) // ends with the connection
			})
		}
	})
	return cryptossh.MarshalAuthorizedKey(signer.PublicKey()), func() {
		cancel()
		_ = listener.Close()
		owned.Wait()
	}, nil
}

// readOnly is an agent that signs and does nothing else.
type readOnly struct{ agent.Agent }

var errReadOnly = errors.New("this agent lends one key and keeps nothing")

func (readOnly) Add(agent.AddedKey) error             { return errReadOnly }
func (readOnly) Remove(cryptossh.PublicKey) error     { return errReadOnly }
func (readOnly) RemoveAll() error                     { return errReadOnly }
func (readOnly) Lock([]byte) error                    { return errReadOnly }
func (readOnly) Unlock([]byte) error                  { return errReadOnly }
func (readOnly) Signers() ([]cryptossh.Signer, error) { return nil, errReadOnly }
