package gateway

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// maxBody bounds a request's body in bytes.
const maxBody = 1 << 20

// api is the gateway's HTTP side.
type api struct{ *Gateway }

// handler answers the controller and the operator.
func (g api) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(*call) (any, error){
		"POST /gateway/v1/configurations":                                   g.servedProvision,
		"DELETE /gateway/v1/configurations/{instance}":                      g.servedUnprovision,
		"POST /gateway/v1/configurations/{instance}/handles":                g.servedBind,
		"DELETE /gateway/v1/configurations/{instance}/handles/{binding}":    g.servedUnbind,
		"GET /gateway/v1/configurations/{instance}/snapshots":               g.servedSnapshots,
		"POST /gateway/v1/configurations/{instance}/snapshots":              g.servedCreateSnapshot,
		"GET /gateway/v1/configurations/{instance}/snapshots/{snapshot}":    g.servedSnapshot,
		"PUT /gateway/v1/configurations/{instance}/snapshots/{snapshot}":    g.jobOf(wire.ServiceRollbackSnapshot),
		"DELETE /gateway/v1/configurations/{instance}/snapshots/{snapshot}": g.jobOf(wire.ServiceDeleteSnapshot),
		"GET /gateway/v1/configurations/{instance}/jobs/{job}":              g.jobOf(wire.ServiceJobDetails),
		"POST /service/internal/v1/restore":                                 g.servedRestore,
		"POST /service/internal/v1/recover":                                 g.servedRecover,
		"POST /service/internal/v1/check_orphan":                            g.servedCheck,
		"GET /service/internal/v1/orphans":                                  g.servedOrphans,
		"DELETE /service/internal/v1/purge_orphan":                          g.servedPurge,
		"POST /service/internal/v1/migration/{node}/{instance}/{action}":    g.servedMigration,
		"GET /service/internal/v1/migration/{node}/instances":               g.servedInstances,
		"POST /service/internal/v1/instances/{instance}/move":               g.servedBegin,
		"GET /service/internal/v1/instances/{instance}/move":                g.servedMove,
		"GET /service/internal/v1/instances/{instance}/node":                g.servedNode,
	} {
		mux.Handle(pattern, g.endpoint(h))
	}
	mux.Handle("POST /gateway/v1/configurations/{instance}/serialized/url/snapshots/{snapshot}", g.endpoint(g.servedSerialize))
	mux.Handle("GET /gateway/v1/configurations/{instance}/serialized/snapshots/{snapshot}/data", g.stream(g.servedFile))
	mux.Handle("PUT /gateway/v1/configurations/{instance}/serialized/data", g.stream(g.servedImport))
	mux.Handle("/", g.endpoint(func(*call) (any, error) { return nil, errNotFound("page") }))
	return mux
}

// call is a request that was let in, with its body.
type call struct {
	*http.Request
	body []byte
	ctx  context.Context // does not end with the connection
}

// left reports whether who asked has gone.
func (c *call) left() bool { return c.Request.Context().Err() != nil }

// read decodes the body.
func (c *call) read(into any) error {
	if err := json.Unmarshal(c.body, into); err != nil {
		return wire.Failure(wire.ServiceMalformed, "Malformed request")
	}
	return nil
}

// endpoint lets in who has the token, and answers.
func (g api) endpoint(h func(*call) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := g.serve(w, r, h)
		g.answer(w, r, answer, err)
	})
}

// answer answers a request with a document, or with an error of the protocol.
func (g api) answer(w http.ResponseWriter, r *http.Request, answer any, err error) {
	status := http.StatusOK
	var failure *wire.ServiceFailure
	switch {
	case errors.As(err, &failure):
		status, answer = failure.Status, failure.Msg
		if status < 400 || status > 599 {
			status = http.StatusInternalServerError
		}
		g.base.Log().Warn("refused or failed", "method", r.Method, "path", r.URL.Path, "error", err)
	case err != nil:
		failure = wire.Failure(wire.ServiceInternal, "Internal Error")
		status, answer = failure.Status, failure.Msg
		g.base.Log().Error("failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	g.count(status)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // a client that has gone hears nothing
}

// count counts an answer for varz.
func (g api) count(status int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answers[status/100]++
}

// mayAsk refuses who does not have the token, and everybody while the gateway is not ready.
func (g api) mayAsk(r *http.Request) error {
	switch {
	case subtle.ConstantTimeCompare([]byte(r.Header.Get("X-VCAP-Service-Token")), []byte(g.config.Token)) != 1:
		return wire.Failure(wire.ServiceUnauthorized, "Not authorized")
	case g.ready() != nil:
		return wire.Failure(wire.ServiceUnavailable, "Service unavailable")
	}
	return nil
}

func (g api) serve(w http.ResponseWriter, r *http.Request, h func(*call) (any, error)) (any, error) {
	err := g.mayAsk(r)
	if err == nil && r.Header.Get("Content-Type") != "application/json" {
		err = wire.Failure(wire.ServiceContentType, "Invalid Content-Type")
	}
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, wire.Failure(wire.ServiceMalformed, "the body cannot be read, or has more than %d bytes", maxBody)
	}
	// A node that has begun is waited for, even if the controller is not any more.
	limit := 3 * time.Duration(g.config.Service.Timeout) * time.Second
	if r.PathValue("action") != "" { // a step of a move
		limit += wire.ServiceMoveLimit
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), limit)
	defer cancel()
	return h(&call{r, body, ctx})
}

// provisionBody describes what the controller asks for an instance with.
type provisionBody struct {
	Label   string `json:"label"`
	Name    string `json:"name"`
	Plan    string `json:"plan"`
	Email   string `json:"email"`
	Version string `json:"version"`
}

func (g api) servedProvision(c *call) (any, error) {
	var body provisionBody
	if err := c.read(&body); err != nil {
		return nil, err
	}
	s := g.config.Service
	if body.Label != s.label() {
		return nil, wire.Failure(wire.ServiceMalformed, "this gateway has %s, not %q", s.label(), body.Label)
	}
	version := body.Version
	if alias, is := s.VersionAliases[version]; is {
		version = alias
	}
	if version == "" {
		version = s.Version
	}
	if body.Plan == "" {
		body.Plan = s.DefaultPlan
	}
	h, err := g.provision(c.ctx, wire.ProvisionRequest{Plan: body.Plan, Version: version, Owner: body.Email, Called: body.Name}, c.left)
	if err == nil {
		g.base.Log().Info("provisioned", "instance", h.ServiceID, "node", h.Credentials.NodeID(), "name", body.Name, "owner", body.Email)
	}
	return h, err
}

func (g api) servedUnprovision(c *call) (any, error) {
	return struct{}{}, g.unprovision(c.ctx, c.PathValue("instance"))
}

// bindBody describes what the controller asks for a user of an instance with.
type bindBody struct {
	ServiceID string          `json:"service_id"`
	Label     string          `json:"label"`
	Email     string          `json:"email"`
	App       string          `json:"app"` // its name; the original does not say it
	Options   json.RawMessage `json:"binding_options"`
}

func (g api) servedBind(c *call) (any, error) {
	var body bindBody
	if err := c.read(&body); err != nil {
		return nil, err
	}
	name := c.PathValue("instance")
	if body.ServiceID != "" && body.ServiceID != name {
		return nil, wire.Failure(wire.ServiceMalformed, "path and body name two instances")
	}
	if len(body.Options) == 0 {
		body.Options = json.RawMessage(`{}`)
	}
	h, err := g.bind(c.ctx, name, body.App, body.Options, c.left)
	if err == nil {
		g.base.Log().Info("bound", "instance", name, "binding", h.ServiceID, "owner", body.Email)
	}
	return h, err
}

func (g api) servedUnbind(c *call) (any, error) {
	return struct{}{}, g.unbind(c.ctx, c.PathValue("instance"), c.PathValue("binding"))
}

func (g api) servedRestore(c *call) (any, error) {
	r, err := wire.ParseRestoreRequest(c.body)
	if err != nil {
		return nil, wire.Failure(wire.ServiceMalformed, "Malformed request")
	}
	h, known, err := g.find(c.ctx, func(h handles) (wire.ServiceHandle, bool) { return h.instance(r.InstanceID) })
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, errNotFound("instance")
	}
	_, err = g.ask(c.ctx, h.Credentials.NodeID(), wire.ServiceRestore, r)
	return struct{}{}, err
}

func (g api) servedRecover(c *call) (any, error) {
	r, err := wire.ParseRestoreRequest(c.body)
	if err != nil {
		return nil, wire.Failure(wire.ServiceMalformed, "Malformed request")
	}
	return struct{}{}, g.recoverInstance(c.ctx, r.InstanceID)
}

// servedCheck begins a check of orphans, or leaves the one that is in progress.
func (g api) servedCheck(*call) (any, error) {
	select {
	case g.check <- struct{}{}:
	default:
	}
	return struct{}{}, nil
}

// servedOrphans tells what the last check has found, and how many there were.
func (g api) servedOrphans(*call) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return struct {
		orphanLists
		Checks   int  `json:"checks"`
		Checking bool `json:"checking"`
	}{g.orphans.lists(), g.checks, g.checking || len(g.check) > 0}, nil
}

func (g api) servedPurge(c *call) (any, error) {
	named, err := parsePurge(c.body)
	if err != nil {
		return nil, err
	}
	purged, refused, err := g.purge(c.ctx, named)
	if err != nil {
		return nil, err
	}
	return map[string]orphanLists{"purged": purged.lists(), "refused": refused.lists()}, nil
}

// parsePurge reads which orphans are to go. None named is none, never all.
func parsePurge(data []byte) (orphans, error) {
	var lists orphanLists
	if err := json.Unmarshal(data, &lists); err != nil {
		return orphans{}, wire.Failure(wire.ServiceMalformed, "Malformed request")
	}
	for _, node := range lists.nodes() {
		if !wire.ValidServiceNode(node) {
			return orphans{}, wire.Failure(wire.ServiceMalformed, "%q is no node", node)
		}
	}
	return lists.set(), nil
}

func (g api) servedMigration(c *call) (any, error) {
	node := c.PathValue("node")
	if !wire.ValidServiceNode(node) {
		return nil, wire.Failure(wire.ServiceMalformed, "%q is no node", node)
	}
	return struct{}{}, mover(g).step(c.ctx, node, c.PathValue("instance"), c.PathValue("action"))
}

func (g api) servedInstances(c *call) (any, error) {
	all, err := g.refresh(c.ctx)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, h := range all.on(c.PathValue("node")) {
		names = append(names, h.ServiceID)
	}
	return names, nil
}

// moveBody describes where an instance shall move.
type moveBody struct {
	To string `json:"to"`
}

// servedBegin begins a move. Who asks looks how far it is.
func (g api) servedBegin(c *call) (any, error) {
	var body moveBody
	if err := c.read(&body); err != nil {
		return nil, err
	}
	return mover(g).begin(c.ctx, c.PathValue("instance"), body.To)
}

// servedMove tells how far the last move of an instance is.
func (g api) servedMove(c *call) (any, error) {
	all, err := g.refresh(c.ctx)
	if err != nil {
		return nil, err
	}
	h, known := all.instance(c.PathValue("instance"))
	if !known {
		return nil, errNotFound("instance")
	}
	return h.Move()
}

// servedNode tells on which node an instance is.
func (g api) servedNode(c *call) (any, error) {
	h, known, err := g.find(c.ctx, func(h handles) (wire.ServiceHandle, bool) { return h.instance(c.PathValue("instance")) })
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, errNotFound("instance")
	}
	return h.Credentials.NodeID(), nil
}
