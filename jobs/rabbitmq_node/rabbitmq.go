// Package rabbitmqnode is the node of the service rabbitmq: one RabbitMQ server, with a
// vhost for each instance and a user for each binding. server.go runs the server,
// management.go speaks to its HTTP API.
package rabbitmqnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/servers"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Settings are the service's keys of the configuration file.
type Settings struct {
	RabbitMQ struct {
		Program  string `yaml:"program"`
		RunAs    string `yaml:"run_as"`
		Port     int    `yaml:"port"`
		MemoryMB int    `yaml:"memory_mb"`
		Limits   Limits `yaml:"limits"`
	} `yaml:"rabbitmq"`
}

// Limits are the plan's, of one instance.
type Limits struct {
	Connections int `yaml:"connections"`
	Channels    int `yaml:"channels"` // of a user
	Queues      int `yaml:"queues"`
	QueueMB     int `yaml:"queue_mb"`   // that a queue keeps; more is refused
	MessageMB   int `yaml:"message_mb"` // of one message
}

// Definition says how the node begins.
func Definition() node.Definition {
	s := &Settings{}
	return node.Definition{
		Name: "rabbitmq", Settings: s,
		Open: func(ctx context.Context, h node.Host) (node.Service, error) { return open(ctx, h, *s) },
	}
}

// service is RabbitMQ as a node.Service.
type service struct {
	settings Settings
	host     node.Host
	log      *slog.Logger
	found    installation
	account  *servers.Account
	servers  *servers.Servers

	mu    sync.Mutex
	ready error
	api   *management // of the server that runs now
}

func orDefault(value *int, usual int) {
	if *value == 0 {
		*value = usual
	}
}

func open(_ context.Context, h node.Host, settings Settings) (*service, error) {
	r := &settings.RabbitMQ
	if r.Program == "" {
		r.Program = "rabbitmq-server"
	}
	if r.RunAs == "" {
		r.RunAs = "rabbitmq"
	}
	orDefault(&r.Port, 5672)
	orDefault(&r.MemoryMB, 256)
	orDefault(&r.Limits.Connections, 50)
	orDefault(&r.Limits.Channels, 500)
	orDefault(&r.Limits.Queues, 50)
	orDefault(&r.Limits.QueueMB, 16)
	orDefault(&r.Limits.MessageMB, 8)
	for name, value := range map[string]int{
		"port": r.Port, "limits.connections": r.Limits.Connections, "limits.channels": r.Limits.Channels, "limits.queues": r.Limits.Queues,
		"limits.queue_mb": r.Limits.QueueMB, "limits.message_mb": r.Limits.MessageMB,
	} {
		if value < 1 || value > 65535 {
			return nil, fmt.Errorf("rabbitmq.%s must be within 1 and 65535", name)
		}
	}
	if r.MemoryMB < 128 || r.Limits.MessageMB > 512 {
		return nil, errors.New("rabbitmq.memory_mb must be at least 128, rabbitmq.limits.message_mb at most 512")
	}
	found, err := find(r.Program)
	if err != nil {
		return nil, err
	}
	account, err := servers.LookUp(r.RunAs)
	if err != nil {
		return nil, err
	}
	return &service{
		settings: settings, host: h, log: h.Log, found: found, account: account, servers: servers.New(account, h.Log),
		ready: errors.New("the server is starting"),
	}, nil
}

// Version is that of the server.
func (s *service) Version() string { return s.found.version }

// Ready says whether the server answers and has all instances.
func (s *service) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// admin returns the API of the server that runs.
func (s *service) admin() (*management, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.api == nil {
		return nil, s.ready
	}
	return s.api, nil
}

// restoresAtOnce bounds how many instances are restored side by side.
const restoresAtOnce = 4

// restore makes sure of all instances and users at a server that has just started,
// with the limits of now. What a server has acknowledged to the node is on disk when
// the machine fails only a little later; the node's records are there at once.
func (s *service) restore(ctx context.Context, api *management) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(restoresAtOnce)
	for _, i := range s.host.Instances() {
		g.Go(func() error {
			if err := s.provision(ctx, api, i); err != nil {
				return err
			}
			for _, b := range i.Users() {
				if err := s.admit(ctx, api, i, b.User, b.Password); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// Provision makes a vhost and a user of it.
func (s *service) Provision(ctx context.Context, i node.Instance) (wire.Credentials, error) {
	api, err := s.admin()
	if err != nil {
		return nil, err
	}
	if err := s.provision(ctx, api, i); err != nil {
		return nil, err
	}
	return s.credentials(i, i.User, i.Password), nil
}

// provision sets an instance's limits before anybody can use it.
func (s *service) provision(ctx context.Context, api *management, i node.Instance) error {
	if err := api.put(ctx, map[string]any{"description": "instance of a service"}, "vhosts", i.Name); err != nil {
		return err
	}
	limits := s.settings.RabbitMQ.Limits
	for name, value := range map[string]int{"max-connections": limits.Connections, "max-queues": limits.Queues} {
		if err := api.put(ctx, map[string]any{"value": value}, "vhost-limits", i.Name, name); err != nil {
			return err
		}
	}
	// The second is what no queue goes beyond, whatever its own arguments say; the
	// first says that publishers are told, while the server's way is to drop what is
	// oldest.
	for kind, definition := range map[string]map[string]any{
		"policies":          {"overflow": "reject-publish"},
		"operator-policies": {"max-length-bytes": limits.QueueMB << 20},
	} {
		if err := api.put(ctx, map[string]any{"pattern": ".*", "apply-to": "queues", "definition": definition}, kind, i.Name, "limits"); err != nil {
			return err
		}
	}
	return s.admit(ctx, api, i, i.User, i.Password)
}

// admit makes a user who may do everything in a vhost, and nothing elsewhere.
func (s *service) admit(ctx context.Context, api *management, i node.Instance, user, password string) error {
	if s.elsewhere(i, user) {
		return fmt.Errorf("cannot make a user of %s: another instance has one of that name", i.Name)
	}
	hash, err := hashed(password)
	if err != nil {
		return err
	}
	if err := api.put(ctx, map[string]any{"password_hash": hash, "hashing_algorithm": hashing, "tags": ""}, "users", user); err != nil {
		return err
	}
	if err := api.put(ctx, map[string]any{"value": s.settings.RabbitMQ.Limits.Channels}, "user-limits", user, "max-channels"); err != nil {
		return err
	}
	return api.put(ctx, map[string]any{"configure": ".*", "write": ".*", "read": ".*"}, "permissions", i.Name, user)
}

// elsewhere reports whether another instance has a user of this name. The server's
// users are of no vhost, so neither making nor removing one here may touch it.
func (s *service) elsewhere(i node.Instance, user string) bool {
	for _, other := range s.host.Instances() {
		if other.Name != i.Name && (other.User == user || slices.ContainsFunc(other.Bindings, func(b node.Binding) bool { return b.User == user })) {
			return true
		}
	}
	return false
}

// Unprovision removes a vhost with all that is in it, and its users.
func (s *service) Unprovision(ctx context.Context, i node.Instance) error {
	api, err := s.admin()
	if err != nil {
		return err
	}
	for _, b := range append(i.Bindings, node.Binding{User: i.User}) {
		if err := s.dismiss(ctx, api, i, b.User); err != nil {
			return err
		}
	}
	return api.remove(ctx, "vhosts", i.Name)
}

// Bind makes a user.
func (s *service) Bind(ctx context.Context, i node.Instance, b node.Binding) (wire.Credentials, error) {
	api, err := s.admin()
	if err != nil {
		return nil, err
	}
	if err := s.admit(ctx, api, i, b.User, b.Password); err != nil {
		return nil, err
	}
	return s.credentials(i, b.User, b.Password), nil
}

// Unbind removes a user; the server ends the user's connections.
func (s *service) Unbind(ctx context.Context, i node.Instance, b node.Binding) error {
	api, err := s.admin()
	if err != nil {
		return err
	}
	return s.dismiss(ctx, api, i, b.User)
}

func (s *service) dismiss(ctx context.Context, api *management, i node.Instance, user string) error {
	if s.elsewhere(i, user) {
		return nil
	}
	return api.remove(ctx, "users", user)
}

func (s *service) credentials(i node.Instance, user, password string) wire.Credentials {
	port := s.settings.RabbitMQ.Port
	at := url.URL{
		Scheme: "amqp", User: url.UserPassword(user, password), Host: net.JoinHostPort(s.host.Address, strconv.Itoa(port)), Path: "/" + i.Name,
	}
	return wire.Credentials{
		"hostname": s.host.Address, "host": s.host.Address, "port": port, "vhost": i.Name, "user": user, "username": user, "password": password,
		"url": at.String(),
	}
}
