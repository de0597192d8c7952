package servicebroker

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/clusterworks/deploy/jobs/wire"
)

// maxBody bounds a request's body in bytes.
const maxBody = 1 << 20

// call is a request that was let in.
type call struct {
	*http.Request
	name     string
	offering Offering
	body     []byte
}

func (b *Broker) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(*call) (any, error){
		"POST /{service}/gateway/v1/configurations":                                b.provision,
		"DELETE /{service}/gateway/v1/configurations/{instance}":                   b.remove,
		"POST /{service}/gateway/v1/configurations/{instance}/handles":             b.bind,
		"DELETE /{service}/gateway/v1/configurations/{instance}/handles/{binding}": b.remove,
	} {
		mux.Handle(pattern, b.endpoint(h))
	}
	mux.Handle("/", b.endpoint(func(*call) (any, error) {
		return nil, wire.Failure(wire.ServiceExtension, "this service has neither snapshots nor export")
	}))
	return mux
}

// endpoint lets in who has the token of the service, and answers. What is answered is
// in no log.
func (b *Broker) endpoint(h func(*call) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := b.serve(w, r, h)
		status := http.StatusOK
		if err != nil {
			var failure *wire.ServiceFailure
			if !errors.As(err, &failure) {
				failure = wire.Failure(wire.ServiceInternal, "Internal Error")
			}
			status, answer = failure.Status, failure.Msg
			b.base.Log().Warn("refused or failed", "method", r.Method, "path", r.URL.Path, "error", err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer) // a client that has gone hears nothing
	})
}

func (b *Broker) serve(w http.ResponseWriter, r *http.Request, h func(*call) (any, error)) (any, error) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	o, known := b.config.Offerings[name]
	// Who asks for an unknown service learns no more than who has a wrong token.
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("X-VCAP-Service-Token")), []byte(o.Token)) != 1 || !known {
		return nil, wire.Failure(wire.ServiceUnauthorized, "Not authorized")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, wire.Failure(wire.ServiceMalformed, "the body cannot be read, or has more than %d bytes", maxBody)
	}
	c := &call{r, name, o, body}
	if o.URL != "" {
		return b.forward(context.WithoutCancel(r.Context()), c)
	}
	return h(c)
}

// provision makes an instance's name. Its plan is a part of it, so that the broker
// need not remember it.
func (b *Broker) provision(c *call) (any, error) {
	var body struct{ Label, Plan string }
	if err := json.Unmarshal(c.body, &body); err != nil {
		return nil, wire.Failure(wire.ServiceMalformed, "Malformed request")
	}
	if body.Label != b.offerers[c.name].Label() {
		return nil, wire.Failure(wire.ServiceMalformed, "this broker has %s, not %q", b.offerers[c.name].Label(), body.Label)
	}
	if body.Plan == "" {
		body.Plan = c.offering.planNames()[0]
	}
	if _, known := c.offering.Plans[body.Plan]; !known {
		return nil, wire.Failure(wire.ServiceUnknownPlan, "%s has no plan %q; it has %s", c.name, body.Plan, strings.Join(c.offering.planNames(), ", "))
	}
	id := "b" + rand.Text() + "-" + body.Plan
	return wire.ServiceHandle{
		ServiceID: id, Configuration: map[string]any{"plan": body.Plan, "version": c.offering.Version},
		Credentials: wire.Credentials{"name": id, "node_id": "service_broker"},
	}, nil
}

// bind gives the credentials of the instance's plan. They are the same for all apps.
func (b *Broker) bind(c *call) (any, error) {
	name := c.PathValue("instance")
	_, plan, _ := strings.Cut(name, "-")
	if _, known := c.offering.Plans[plan]; !known {
		return nil, wire.Failure(wire.ServiceNotFound, "there is no such instance, or its plan is gone")
	}
	options := struct {
		Options json.RawMessage `json:"binding_options"`
	}{}
	if err := json.Unmarshal(c.body, &options); err != nil {
		return nil, wire.Failure(wire.ServiceMalformed, "Malformed request")
	}
	if len(options.Options) == 0 {
		options.Options = json.RawMessage(`{}`)
	}
	credentials := c.offering.credentials(plan)
	credentials["name"], credentials["node_id"] = name, "service_broker"
	return wire.ServiceHandle{
		ServiceID:     "h" + rand.Text(),
		Configuration: map[string]any{"plan": plan, "version": c.offering.Version, "data": map[string]any{"binding_options": options.Options}},
		Credentials:   credentials,
	}, nil
}

// remove has nothing to do: the controller has forgotten the handle.
func (b *Broker) remove(*call) (any, error) { return struct{}{}, nil }
