package services

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// API is the services' part of the API.
type API struct {
	*Services
	Frame        *rest.Frame
	Authenticate func(*http.Request) (model.Account, error)
	Stands       func(context.Context, model.Account) error // see accounts.Stands
	Optional     func(*http.Request) (a model.Account, known bool, err error)
}

// serviceProblem answers as the service API does when a request is wrong.
func serviceProblem(w http.ResponseWriter, format string, args ...any) error {
	rest.WriteJSON(w, http.StatusBadRequest, map[string]string{"errors": fmt.Sprintf(format, args...)})
	return nil
}

// legacyProblem answers as the older API does.
func legacyProblem(w http.ResponseWriter, format string, args ...any) error {
	rest.WriteJSON(w, http.StatusBadRequest, map[string]string{"description": fmt.Sprintf(format, args...)})
	return nil
}

// Routes adds the services' part of the API.
func (api *API) Routes(handle func(string, rest.Handler), user func(string, func(http.ResponseWriter, *http.Request, model.Account) error)) {
	handle("GET /info/services", api.infoServices)
	user("GET /services", api.listServices)
	user("POST /services", api.createService)
	user("GET /services/{alias}", api.getService)
	user("DELETE /services/{alias}", api.deleteService)

	// The newer part takes JSON only.
	jsonOnly := func(h rest.Handler) rest.Handler {
		return func(w http.ResponseWriter, r *http.Request) error {
			if r.Header.Get("Content-Type") != "application/json" {
				return serviceProblem(w, "the Content-Type must be application/json")
			}
			return h(w, r)
		}
	}
	userJSON := func(pattern string, h func(http.ResponseWriter, *http.Request, model.Account) error) {
		handle(pattern, jsonOnly(func(w http.ResponseWriter, r *http.Request) error {
			a, err := api.Authenticate(r)
			if err != nil {
				return err
			}
			return h(w, r, a)
		}))
	}
	handle("GET /services/v1/offerings", jsonOnly(api.listOfferings))
	handle("POST /services/v1/offerings", jsonOnly(api.putOffering))
	for _, suffix := range []string{"", "/{provider}"} {
		one := "/services/v1/offerings/{label}" + suffix
		handle("GET "+one, jsonOnly(api.offering(api.getOffering)))
		handle("DELETE "+one, jsonOnly(api.offering(api.deleteOffering)))
		handle("GET "+one+"/handles", jsonOnly(api.offering(api.listHandles)))
		handle("POST "+one+"/handles/{handle}", jsonOnly(api.offering(api.putHandle)))
	}
	handle("GET /proxied_services/v1/offerings", jsonOnly(api.listProxied))

	userJSON("POST /services/v1/configurations", api.createConfiguration)
	userJSON("DELETE /services/v1/configurations/{alias}", api.deleteService)
	userJSON("POST /services/v1/bindings", api.createBinding)
	userJSON("POST /services/v1/bindings/external", api.createExternalBinding)
	userJSON("DELETE /services/v1/bindings/{token}", api.deleteBinding)
	userJSON("POST /services/v1/binding_tokens", api.createBindingToken)
	handle("GET /services/v1/binding_tokens/{token}", jsonOnly(api.getBindingToken))
	userJSON("DELETE /services/v1/binding_tokens/{token}", api.deleteBindingToken)
	api.snapshotRoutes(userJSON)
	files{api.Services, api.owned}.routes(handle, user, userJSON)
	user("GET /services/v1/configurations/{alias}/tunnel", api.tunnel)
}

// fromGateway reports whether a request comes from the gateway of a service.
func (api *API) fromGateway(r *http.Request, service string) bool {
	want := api.Config.Now().BuiltinServices[service].Token
	return want != "" && subtle.ConstantTimeCompare([]byte(r.Header.Get("X-VCAP-Service-Token")), []byte(want)) == 1
}

// offering finds the one in the path, for its gateway.
func (api *API) offering(h func(http.ResponseWriter, *http.Request, store.Offering) error) rest.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		label, provider := r.PathValue("label"), r.PathValue("provider")
		if !api.fromGateway(r, offering{Label: label}.name()) {
			return model.ErrForbidden
		}
		if provider == coreProvider {
			provider = ""
		}
		o, err := api.Store.Offering(r.Context(), label, provider)
		if errors.Is(err, store.ErrNotFound) {
			return model.ErrServiceNotFound
		}
		if err != nil {
			return err
		}
		return h(w, r, o)
	}
}

// putOffering is a gateway's announcement, again and again.
func (api *API) putOffering(w http.ResponseWriter, r *http.Request) error {
	var doc offering
	if err := rest.ReadJSON(w, r, &doc); err != nil {
		return serviceProblem(w, "%v", err)
	}
	if !offeringLabel.MatchString(doc.Label) {
		return serviceProblem(w, "label %q is not <name>-<version>", doc.Label)
	}
	if !api.fromGateway(r, doc.name()) {
		return model.ErrForbidden
	}
	if at, err := url.Parse(doc.URL); err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" {
		return serviceProblem(w, "url is no http URL")
	}
	if doc.Timeout < 0 || doc.Timeout > 600 {
		return serviceProblem(w, "timeout is not within 0 and 600 seconds")
	}
	if doc.Provider == coreProvider {
		doc.Provider = ""
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return serviceProblem(w, "%v", err)
	}
	active := doc.Active == nil || *doc.Active
	if err := api.Store.PutOffering(r.Context(), store.Offering{Label: doc.Label, Provider: doc.Provider, Document: text, Active: active}); err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, struct{}{})
	return nil
}

func (api *API) getOffering(w http.ResponseWriter, _ *http.Request, o store.Offering) error {
	rest.WriteJSON(w, http.StatusOK, o.Document)
	return nil
}

func (api *API) deleteOffering(w http.ResponseWriter, r *http.Request, o store.Offering) error {
	err := api.Store.DeleteOffering(r.Context(), o.ID)
	if errors.Is(err, store.ErrExists) {
		return serviceProblem(w, "there are instances of %s", o.Label)
	}
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, struct{}{})
	return nil
}

func (api *API) listHandles(w http.ResponseWriter, r *http.Request, o store.Offering) error {
	handles := []handle{}
	instances, err := api.Store.ServiceInstancesOf(r.Context(), o.ID)
	if err != nil {
		return err
	}
	for _, i := range instances {
		handles = append(handles, handle{i.GatewayID, i.Configuration, i.Credentials})
	}
	bindings, err := api.Store.BindingsOf(r.Context(), o.ID)
	if err != nil {
		return err
	}
	for _, b := range bindings {
		handles = append(handles, handle{b.GatewayID, b.Configuration, b.Credentials})
	}
	rest.WriteJSON(w, http.StatusOK, map[string]any{"handles": handles})
	return nil
}

// putHandle keeps what a gateway says of an instance or a binding. With restart, which
// the original does not have, the app of a binding is restarted: it may be asked for
// again by a gateway that has heard no answer. With was, the configuration of an instance
// is replaced only if it is that one: of two gateways one wins.
func (api *API) putHandle(w http.ResponseWriter, r *http.Request, o store.Offering) error {
	var h struct {
		handle
		Restart bool            `json:"restart"`
		Was     json.RawMessage `json:"was"`
	}
	if err := rest.ReadJSON(w, r, &h); err != nil {
		return serviceProblem(w, "%v", err)
	}
	var err error
	if len(h.Was) > 0 {
		err = api.Store.ReplaceHandle(r.Context(), o.ID, r.PathValue("handle"), h.Was, h.Configuration, h.Credentials)
	} else {
		err = api.Store.UpdateHandle(r.Context(), o.ID, r.PathValue("handle"), h.Configuration, h.Credentials)
	}
	if errors.Is(err, store.ErrStale) {
		rest.WriteJSON(w, http.StatusConflict, map[string]string{"errors": "the handle was changed meanwhile"})
		return nil
	}
	if errors.Is(err, store.ErrNotFound) {
		return model.ErrBindingNotFound
	}
	if err == nil && h.Restart {
		err = api.restartBound(r.Context(), o, r.PathValue("handle"))
	}
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, struct{}{})
	return nil
}

// restartBound restarts the app of a binding.
func (api *API) restartBound(ctx context.Context, o store.Offering, gatewayID string) error {
	bindings, err := api.Store.BindingsOf(ctx, o.ID)
	if err != nil {
		return err
	}
	for _, b := range bindings {
		if b.GatewayID == gatewayID {
			return api.Restart(ctx, b.AppID, "the service "+b.Instance.Alias+" has a new address")
		}
	}
	return nil
}

func (api *API) listOfferings(w http.ResponseWriter, r *http.Request) error {
	a, _, err := api.Optional(r)
	if err != nil {
		return err
	}
	list, err := api.offered(r.Context(), a.Email)
	if err != nil {
		return err
	}
	doc := map[string]map[string]map[string]map[string]json.RawMessage{}
	for _, o := range list {
		nest(nest(nest(doc, o.kind()), o.name()), o.provider())[o.version()] = o.stored.Document
	}
	rest.WriteJSON(w, http.StatusOK, doc)
	return nil
}

// nest returns the map in a map, which it makes if it is not there.
func nest[V any](m map[string]map[string]V, key string) map[string]V {
	if m[key] == nil {
		m[key] = map[string]V{}
	}
	return m[key]
}

// listProxied lists the offerings for a broker.
func (api *API) listProxied(w http.ResponseWriter, r *http.Request) error {
	known := false
	for name := range api.Config.Now().BuiltinServices {
		known = known || api.fromGateway(r, name)
	}
	if !known {
		return model.ErrForbidden
	}
	list, err := api.offered(r.Context(), "")
	if err != nil {
		return err
	}
	docs := []json.RawMessage{}
	for _, o := range list {
		docs = append(docs, o.stored.Document)
	}
	rest.WriteJSON(w, http.StatusOK, map[string]any{"proxied_services": docs})
	return nil
}

// infoServices lists what is offered, for vmc.
func (api *API) infoServices(w http.ResponseWriter, r *http.Request) error {
	type tier struct {
		Options map[string]any `json:"options"`
		Order   int            `json:"order"`
	}
	type entry struct {
		ID          string          `json:"id"`
		Vendor      string          `json:"vendor"`
		Version     string          `json:"version"`
		Tiers       map[string]tier `json:"tiers"`
		Type        string          `json:"type"`
		Description string          `json:"description"`
		Provider    string          `json:"provider"`
		DefaultPlan string          `json:"default_plan"`
		Alias       string          `json:"alias,omitempty"`
	}
	a, _, err := api.Optional(r)
	if err != nil {
		return err
	}
	list, err := api.offered(r.Context(), a.Email)
	if err != nil {
		return err
	}
	doc := map[string]map[string]map[string]entry{}
	for _, o := range list {
		tiers := map[string]tier{}
		for i, plan := range o.Plans {
			tiers[plan] = tier{map[string]any{}, i + 1}
		}
		for _, version := range o.versions() {
			e := entry{
				ID: strconv.FormatInt(o.stored.ID, 10), Vendor: o.name(), Version: version, Tiers: tiers, Type: o.kind(),
				Description: o.Description, Provider: o.provider(), DefaultPlan: o.DefaultPlan,
			}
			for alias, of := range o.Aliases {
				if of == version && (e.Alias == "" || alias < e.Alias) {
					e.Alias = alias
				}
			}
			nest(nest(doc, o.kind()), o.name())[version] = e
		}
	}
	rest.WriteJSON(w, http.StatusOK, doc)
	return nil
}
