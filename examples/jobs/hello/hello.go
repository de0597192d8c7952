// Package hello is a small web server that shows what a component does: it
// registers its host name with the routers, says when it is ready, leaves
// without losing a request, and takes a new configuration without a restart.
package hello

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/coder/websocket"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Config is hello's file.
type Config struct {
	component.Config `yaml:",inline"`

	Port       int    `yaml:"port"`       // on the own address
	Host       string `yaml:"host"`       // name that is registered
	Greeting   string `yaml:"greeting"`   // what the page begins with
	Instance   string `yaml:"instance"`   // "hello/0"
	Deployment string `yaml:"deployment"` // its name
}

// maxEcho bounds what /echo and a message of /socket may be.
const maxEcho = 1 << 20

// Hello is the running server.
type Hello struct {
	file   string
	config atomic.Pointer[Config]
	base   *component.Component
	routes *component.Registrar
	route  wire.Registration
	server *component.Server
	served atomic.Int64
	// leaving ends when the drain begins: WebSockets are told to go elsewhere.
	leaving context.Context
	leave   context.CancelFunc
}

// New reads the configuration and takes the port. Run must follow.
func New(p component.Process) (_ *Hello, err error) {
	h := &Hello{file: p.ConfigFile}
	h.leaving, h.leave = context.WithCancel(context.Background())
	cfg, raw, err := load(p.ConfigFile)
	if err != nil {
		return nil, err
	}
	h.config.Store(&cfg)
	h.base, err = component.Open(component.Options{
		Type:    "Hello",
		Process: p,
		Config:  cfg.Config,
		Raw:     raw,
		Varz:    func() map[string]any { return map[string]any{"requests": h.served.Load()} },
		Drain:   h.drain,
		Reload:  h.reload,
	})
	if err != nil {
		return nil, err
	}
	h.server, err = component.Listen(net.JoinHostPort(h.base.Address(), strconv.Itoa(cfg.Port)), h, h.base.Log())
	if err != nil {
		h.base.Close()
		return nil, err
	}
	h.routes = h.base.NewRegistrar()
	h.route = wire.Registration{
		Host:              h.base.Address(),
		Port:              h.server.Addr().(*net.TCPAddr).Port,
		URIs:              []string{cfg.Host},
		Tags:              wire.Tags{"component": "Hello"},
		PrivateInstanceID: h.base.UUID(),
	}
	return h, nil
}

// Run serves until ctx ends, then withdraws the route and leaves.
func (h *Hello) Run(ctx context.Context) error {
	defer h.base.Close()
	defer h.leave()
	if err := h.routes.Register(h.route); err != nil {
		return errors.Join(err, h.server.Close())
	}
	return h.base.Run(ctx, h.server.Serve, h.routes.Run)
}

// ServeHTTP answers with who answers; /echo with what was sent, and /socket is
// a WebSocket that does so message by message.
func (h *Hello) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.served.Add(1)
	switch r.URL.Path {
	case "/echo":
		h.echo(w, r)
	case "/socket":
		h.socket(w, r)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, h.page())
	}
}

func (h *Hello) page() string {
	cfg := h.config.Load()
	return fmt.Sprintf("%s from %s of %s, at %s\n", cfg.Greeting, cfg.Instance, cfg.Deployment, h.base.Address())
}

func (h *Hello) echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEcho))
	if err != nil {
		http.Error(w, fmt.Sprintf("cannot read what to echo: %v", err), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(body)
}

// socket says who answers, then repeats every message until the client leaves,
// or this instance does: the client is told, and finds another one.
func (h *Hello) socket(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // it has answered why
	}
	defer conn.CloseNow()
	conn.SetReadLimit(maxEcho)
	defer context.AfterFunc(h.leaving, func() { _ = conn.Close(websocket.StatusGoingAway, "this instance leaves") })()
	message := []byte(h.page())
	for kind := websocket.MessageText; ; {
		if err := conn.Write(r.Context(), kind, message); err != nil {
			return
		}
		if kind, message, err = conn.Read(r.Context()); err != nil {
			return
		}
	}
}

// drain: first no router sends anything new, then what is there is finished.
func (h *Hello) drain(ctx context.Context) error {
	h.leave()
	return errors.Join(h.routes.Close(ctx), h.server.Drain(ctx))
}

func (h *Hello) reload() error {
	cfg, _, err := load(h.file)
	if err != nil {
		return err
	}
	h.config.Store(&cfg)
	return nil
}

func load(file string) (Config, map[string]any, error) {
	cfg := Config{Greeting: "Hello"}
	raw, err := component.Load(file, &cfg)
	if err == nil && cfg.Host == "" {
		err = fmt.Errorf("cannot use the configuration %s: host is missing", file)
	}
	return cfg, raw, err
}
