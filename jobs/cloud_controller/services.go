package cloudcontroller

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// offering is what a gateway posts.
type offering struct {
	Label       string            `json:"label"`
	URL         string            `json:"url"`
	Plans       []string          `json:"plans"`
	Description string            `json:"description"`
	InfoURL     string            `json:"info_url"`
	Tags        []string          `json:"tags"`
	PlanOptions json.RawMessage   `json:"plan_options"`
	Binding     json.RawMessage   `json:"binding_options"`
	ACLs        *acls             `json:"acls"`
	Active      *bool             `json:"active"` // nil: true
	Timeout     int               `json:"timeout"`
	Provider    string            `json:"provider"`
	DefaultPlan string            `json:"default_plan"`
	Versions    []string          `json:"supported_versions"`
	Aliases     map[string]string `json:"version_aliases"`
	CFPlanID    json.RawMessage   `json:"cf_plan_id"`
}

// acls are who sees an offering; nil: everyone.
type acls struct {
	Users     []string        `json:"users"`
	Wildcards []string        `json:"wildcards"` // "*@example.com"
	Plans     map[string]acls `json:"plans"`
}

// coreProvider is what no provider is called.
const coreProvider = "core"

var (
	offeringLabel = regexp.MustCompile(`^[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+)*-[A-Za-z0-9_.]+$`)
	serviceAlias  = regexp.MustCompile(`^[\w.-]{1,255}$`)
)

func readOffering(o store.Offering) (offering, error) {
	var doc offering
	if err := json.Unmarshal(o.Document, &doc); err != nil {
		return offering{}, fmt.Errorf("cannot read the offering %s: %w", o.Label, err)
	}
	return doc, nil
}

// name and version of a label: "mysql-5.1".
func (o offering) name() string    { return o.Label[:max(0, strings.LastIndex(o.Label, "-"))] }
func (o offering) version() string { return o.Label[strings.LastIndex(o.Label, "-")+1:] }

func (o offering) provider() string {
	if o.Provider == "" {
		return coreProvider
	}
	return o.Provider
}

// versions are what can be asked for.
func (o offering) versions() []string {
	if len(o.Versions) == 0 {
		return []string{o.version()}
	}
	return o.Versions
}

// kind is what vmc calls the type of a service.
func (o offering) kind() string {
	switch o.name() {
	case "mysql", "postgresql":
		return "database"
	case "redis":
		return "key-value"
	case "mongodb":
		return "document"
	}
	return "generic"
}

// visible says whether a user sees the offering; email "": who is not logged in.
func (o offering) visible(email string) bool {
	if o.ACLs == nil || len(o.ACLs.Users) == 0 && len(o.ACLs.Wildcards) == 0 {
		return true
	}
	matches := func(pattern string) bool {
		ok, err := path.Match(pattern, email)
		return err == nil && ok
	}
	return email != "" && (slices.Contains(o.ACLs.Users, email) || slices.ContainsFunc(o.ACLs.Wildcards, matches))
}

func randomToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// serviceProblem is how the service API says what is wrong with a request.
func serviceProblem(w http.ResponseWriter, format string, args ...any) error {
	writeJSON(w, http.StatusBadRequest, map[string]string{"errors": fmt.Sprintf(format, args...)})
	return nil
}

// legacyProblem is how the older one does.
func legacyProblem(w http.ResponseWriter, format string, args ...any) error {
	writeJSON(w, http.StatusBadRequest, map[string]string{"description": fmt.Sprintf(format, args...)})
	return nil
}

// serviceRoutes are the services' part of the API.
func (c *Controller) serviceRoutes(handle func(string, handler), user func(string, func(http.ResponseWriter, *http.Request, account) error)) {
	handle("GET /info/services", c.infoServices)
	user("GET /services", c.listServices)
	user("POST /services", c.createService)
	user("GET /services/{alias}", c.getService)
	user("DELETE /services/{alias}", c.deleteService)

	// The newer part takes JSON only.
	jsonOnly := func(h handler) handler {
		return func(w http.ResponseWriter, r *http.Request) error {
			if r.Header.Get("Content-Type") != "application/json" {
				return serviceProblem(w, "the Content-Type must be application/json")
			}
			return h(w, r)
		}
	}
	userJSON := func(pattern string, h func(http.ResponseWriter, *http.Request, account) error) {
		handle(pattern, jsonOnly(func(w http.ResponseWriter, r *http.Request) error {
			a, err := c.authenticate(r)
			if err != nil {
				return err
			}
			return h(w, r, a)
		}))
	}
	handle("GET /services/v1/offerings", jsonOnly(c.listOfferings))
	handle("POST /services/v1/offerings", jsonOnly(c.putOffering))
	for _, suffix := range []string{"", "/{provider}"} {
		one := "/services/v1/offerings/{label}" + suffix
		handle("GET "+one, jsonOnly(c.offering(c.getOffering)))
		handle("DELETE "+one, jsonOnly(c.offering(c.deleteOffering)))
		handle("GET "+one+"/handles", jsonOnly(c.offering(c.listHandles)))
		handle("POST "+one+"/handles/{handle}", jsonOnly(c.offering(c.putHandle)))
	}
	handle("GET /proxied_services/v1/offerings", jsonOnly(c.listProxied))

	userJSON("POST /services/v1/configurations", c.createConfiguration)
	userJSON("DELETE /services/v1/configurations/{alias}", c.deleteService)
	userJSON("POST /services/v1/bindings", c.createBinding)
	userJSON("POST /services/v1/bindings/external", c.createExternalBinding)
	userJSON("DELETE /services/v1/bindings/{token}", c.deleteBinding)
	userJSON("POST /services/v1/binding_tokens", c.createBindingToken)
	handle("GET /services/v1/binding_tokens/{token}", jsonOnly(c.getBindingToken))
	userJSON("DELETE /services/v1/binding_tokens/{token}", c.deleteBindingToken)
	for _, rest := range []string{"snapshots", "serialized", "jobs"} {
		for _, suffix := range []string{"", "/{rest...}"} {
			userJSON("/services/v1/configurations/{alias}/"+rest+suffix, func(http.ResponseWriter, *http.Request, account) error { return errExtension })
		}
	}
}

// fromGateway says whether a request comes from the gateway of a service.
func (c *Controller) fromGateway(r *http.Request, service string) bool {
	want := c.settings.Load().BuiltinServices[service].Token
	return want != "" && subtle.ConstantTimeCompare([]byte(r.Header.Get("X-VCAP-Service-Token")), []byte(want)) == 1
}

// offering finds the one in the path, for its gateway.
func (c *Controller) offering(h func(http.ResponseWriter, *http.Request, store.Offering) error) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		label, provider := r.PathValue("label"), r.PathValue("provider")
		if !c.fromGateway(r, offering{Label: label}.name()) {
			return errForbidden
		}
		if provider == coreProvider {
			provider = ""
		}
		o, err := c.store.Offering(r.Context(), label, provider)
		if errors.Is(err, store.ErrNotFound) {
			return errServiceNotFound
		}
		if err != nil {
			return err
		}
		return h(w, r, o)
	}
}

// putOffering is a gateway's announcement, again and again.
func (c *Controller) putOffering(w http.ResponseWriter, r *http.Request) error {
	var doc offering
	if err := readJSON(w, r, &doc); err != nil {
		return serviceProblem(w, "%v", err)
	}
	if !offeringLabel.MatchString(doc.Label) {
		return serviceProblem(w, "label %q is not <name>-<version>", doc.Label)
	}
	if !c.fromGateway(r, doc.name()) {
		return errForbidden
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
	if err := c.store.PutOffering(r.Context(), store.Offering{Label: doc.Label, Provider: doc.Provider, Document: text, Active: active}); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

func (c *Controller) getOffering(w http.ResponseWriter, _ *http.Request, o store.Offering) error {
	writeJSON(w, http.StatusOK, o.Document)
	return nil
}

func (c *Controller) deleteOffering(w http.ResponseWriter, r *http.Request, o store.Offering) error {
	err := c.store.DeleteOffering(r.Context(), o.ID)
	if errors.Is(err, store.ErrExists) {
		return serviceProblem(w, "there are instances of %s", o.Label)
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

func (c *Controller) listHandles(w http.ResponseWriter, r *http.Request, o store.Offering) error {
	handles := []handle{}
	instances, err := c.store.ServiceInstancesOf(r.Context(), o.ID)
	if err != nil {
		return err
	}
	for _, i := range instances {
		handles = append(handles, handle{i.GatewayID, i.Configuration, i.Credentials})
	}
	bindings, err := c.store.BindingsOf(r.Context(), o.ID)
	if err != nil {
		return err
	}
	for _, b := range bindings {
		handles = append(handles, handle{b.GatewayID, b.Configuration, b.Credentials})
	}
	writeJSON(w, http.StatusOK, map[string]any{"handles": handles})
	return nil
}

func (c *Controller) putHandle(w http.ResponseWriter, r *http.Request, o store.Offering) error {
	var h handle
	if err := readJSON(w, r, &h); err != nil {
		return serviceProblem(w, "%v", err)
	}
	err := c.store.UpdateHandle(r.Context(), o.ID, r.PathValue("handle"), h.Configuration, h.Credentials)
	if errors.Is(err, store.ErrNotFound) {
		return errBindingNotFound
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

// offered is an offering that is active, and that a user sees.
type offered struct {
	offering
	stored store.Offering
}

func (c *Controller) offered(ctx context.Context, email string) ([]offered, error) {
	stored, err := c.store.Offerings(ctx)
	if err != nil {
		return nil, err
	}
	var list []offered
	for _, o := range stored {
		doc, err := readOffering(o)
		if err != nil {
			return nil, err
		}
		if o.Active && doc.visible(email) {
			list = append(list, offered{doc, o})
		}
	}
	return list, nil
}

func (c *Controller) listOfferings(w http.ResponseWriter, r *http.Request) error {
	a, _, err := c.optional(r)
	if err != nil {
		return err
	}
	list, err := c.offered(r.Context(), a.Email)
	if err != nil {
		return err
	}
	doc := map[string]map[string]map[string]map[string]json.RawMessage{}
	for _, o := range list {
		nest(nest(nest(doc, o.kind()), o.name()), o.provider())[o.version()] = o.stored.Document
	}
	writeJSON(w, http.StatusOK, doc)
	return nil
}

// nest returns the map in a map, which it makes if it is not there.
func nest[V any](m map[string]map[string]V, key string) map[string]V {
	if m[key] == nil {
		m[key] = map[string]V{}
	}
	return m[key]
}

// listProxied tells a broker what is offered.
func (c *Controller) listProxied(w http.ResponseWriter, r *http.Request) error {
	known := false
	for name := range c.settings.Load().BuiltinServices {
		known = known || c.fromGateway(r, name)
	}
	if !known {
		return errForbidden
	}
	list, err := c.offered(r.Context(), "")
	if err != nil {
		return err
	}
	docs := []json.RawMessage{}
	for _, o := range list {
		docs = append(docs, o.stored.Document)
	}
	writeJSON(w, http.StatusOK, map[string]any{"proxied_services": docs})
	return nil
}

// infoServices is what vmc shows of what is offered.
func (c *Controller) infoServices(w http.ResponseWriter, r *http.Request) error {
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
	a, _, err := c.optional(r)
	if err != nil {
		return err
	}
	list, err := c.offered(r.Context(), a.Email)
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
	writeJSON(w, http.StatusOK, doc)
	return nil
}

// instanceEntry is how vmc is told of an instance.
func instanceEntry(i store.ServiceInstance) (map[string]any, error) {
	o, err := readOffering(i.Offering)
	if err != nil {
		return nil, err
	}
	tags := o.Tags
	if tags == nil {
		tags = []string{}
	}
	return map[string]any{
		"name": i.Alias, "service_id": i.GatewayID, "type": o.kind(), "vendor": o.name(), "provider": o.provider(), "version": i.Version, "tier": i.Plan,
		"properties": map[string]any{},
		"meta":       map[string]any{"created": i.CreatedAt, "updated": i.UpdatedAt, "tags": tags, "version": 1},
	}, nil
}

func (c *Controller) listServices(w http.ResponseWriter, r *http.Request, a account) error {
	instances, err := c.store.ServiceInstances(r.Context(), a.ID)
	if err != nil {
		return err
	}
	list := []map[string]any{}
	for _, i := range instances {
		entry, err := instanceEntry(i)
		if err != nil {
			return err
		}
		list = append(list, entry)
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// aliased finds a user's instance.
func (c *Controller) aliased(ctx context.Context, a account, alias string) (store.ServiceInstance, error) {
	i, err := c.store.ServiceInstance(ctx, a.ID, alias)
	if errors.Is(err, store.ErrNotFound) {
		return i, errServiceNotFound
	}
	return i, err
}

func (c *Controller) getService(w http.ResponseWriter, r *http.Request, a account) error {
	i, err := c.aliased(r.Context(), a, r.PathValue("alias"))
	if err != nil {
		return err
	}
	entry, err := instanceEntry(i)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, entry)
	return nil
}

func (c *Controller) deleteService(w http.ResponseWriter, r *http.Request, a account) error {
	i, err := c.aliased(r.Context(), a, r.PathValue("alias"))
	if err != nil {
		return err
	}
	ctx, cancel := c.detached(r)
	defer cancel()
	if err := c.unprovision(ctx, i); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			return errServiceNotFound
		}
		return err
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

// createService is vmc's way to provision.
func (c *Controller) createService(w http.ResponseWriter, r *http.Request, a account) error {
	var body struct {
		Type     string `json:"type"`
		Tier     string `json:"tier"`
		Vendor   string `json:"vendor"`
		Version  string `json:"version"`
		Name     string `json:"name"`
		Provider string `json:"provider"`
		Options  struct {
			PlanOption string `json:"plan_option"`
		} `json:"options"`
	}
	if err := readJSON(w, r, &body); err != nil {
		return legacyProblem(w, "%v", err)
	}
	if body.Vendor == "" || body.Tier == "" || !serviceAlias.MatchString(body.Name) {
		return legacyProblem(w, "vendor, tier or a valid name is missing")
	}
	list, err := c.offered(r.Context(), a.Email)
	if err != nil {
		return err
	}
	refusal := errServiceNotFound
	for _, o := range list {
		if o.name() != body.Vendor || body.Provider != "" && body.Provider != o.provider() {
			continue
		}
		version := body.Version
		if of, ok := o.Aliases[version]; ok {
			version = of
		}
		if version != "" && !slices.Contains(o.versions(), version) {
			refusal = errServiceVersion
			continue
		}
		_, err := c.provisionOf(w, r, a, o, store.ServiceInstance{Alias: body.Name, Plan: body.Tier, PlanOption: body.Options.PlanOption, Version: version}, legacyProblem)
		return err
	}
	return refusal
}

// createConfiguration is the newer way.
func (c *Controller) createConfiguration(w http.ResponseWriter, r *http.Request, a account) error {
	var body struct {
		Label      string `json:"label"`
		Name       string `json:"name"`
		Plan       string `json:"plan"`
		Version    string `json:"version"`
		PlanOption string `json:"plan_option"`
		Provider   string `json:"provider"`
	}
	if err := readJSON(w, r, &body); err != nil {
		return serviceProblem(w, "%v", err)
	}
	if body.Label == "" || body.Plan == "" || !serviceAlias.MatchString(body.Name) {
		return serviceProblem(w, "label, plan or a valid name is missing")
	}
	list, err := c.offered(r.Context(), a.Email)
	if err != nil {
		return err
	}
	for _, o := range list {
		if o.Label != body.Label || body.Provider != "" && body.Provider != o.provider() {
			continue
		}
		version := body.Version
		if of, ok := o.Aliases[version]; ok {
			version = of
		}
		if version != "" && !slices.Contains(o.versions(), version) {
			return errServiceVersion
		}
		i := store.ServiceInstance{Alias: body.Name, Plan: body.Plan, PlanOption: body.PlanOption, Version: version}
		_, err := c.provisionOf(w, r, a, o, i, serviceProblem)
		return err
	}
	return errServiceNotFound
}

// provisionOf provisions and answers.
func (c *Controller) provisionOf(w http.ResponseWriter, r *http.Request, a account, o offered, i store.ServiceInstance,
	problem func(http.ResponseWriter, string, ...any) error,
) (store.ServiceInstance, error) {
	if len(o.Plans) > 0 && !slices.Contains(o.Plans, i.Plan) {
		return i, problem(w, "%s has no plan %q", o.Label, i.Plan)
	}
	if i.Version == "" {
		i.Version = o.version()
	}
	ctx, cancel := c.detached(r)
	defer cancel()
	i, err := c.provision(ctx, a, o.stored, i)
	if errors.Is(err, store.ErrExists) {
		return i, problem(w, "there is a service called %q already", i.Alias)
	}
	if err != nil {
		return i, err
	}
	if strings.HasPrefix(r.URL.Path, "/services/v1/") {
		writeJSON(w, http.StatusOK, map[string]any{"service_id": i.GatewayID, "data": i.Configuration, "credentials": i.Credentials})
	} else {
		writeJSON(w, http.StatusOK, struct{}{})
	}
	return i, nil
}

type bindingRequest struct {
	ServiceID    string          `json:"service_id"` // the user's name for it, or the gateway's
	AppID        json.RawMessage `json:"app_id"`     // number or name
	Options      json.RawMessage `json:"binding_options"`
	BindingToken string          `json:"binding_token"`
}

// appOf finds a user's app by its number or name.
func (c *Controller) appOf(ctx context.Context, a account, which json.RawMessage) (store.App, error) {
	var id wire.ID
	if err := json.Unmarshal(which, &id); err != nil {
		return store.App{}, errAppNotFound
	}
	if n, err := strconv.ParseInt(string(id), 10, 64); err == nil {
		app, err := c.store.AppByID(ctx, n)
		if err == nil && app.OwnerID == a.ID {
			return app, nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return store.App{}, err
		}
	}
	app, err := c.store.App(ctx, a.ID, string(id))
	return app, appError(err)
}

// serviceOf finds a user's instance by either name.
func (c *Controller) serviceOf(ctx context.Context, a account, id string) (store.ServiceInstance, error) {
	instances, err := c.store.ServiceInstances(ctx, a.ID)
	if err != nil {
		return store.ServiceInstance{}, err
	}
	for _, i := range instances {
		if i.Alias == id || i.GatewayID != "" && i.GatewayID == id {
			return i, nil
		}
	}
	return store.ServiceInstance{}, errServiceNotFound
}

func (c *Controller) createBinding(w http.ResponseWriter, r *http.Request, a account) error {
	var body bindingRequest
	if err := readJSON(w, r, &body); err != nil {
		return serviceProblem(w, "%v", err)
	}
	i, err := c.serviceOf(r.Context(), a, body.ServiceID)
	if err != nil {
		return err
	}
	return c.bindAndAnswer(w, r, a, body, i, body.Options, func(b store.Binding) any {
		return map[string]string{"binding_token": b.Token, "label": i.Offering.Label}
	})
}

func (c *Controller) createExternalBinding(w http.ResponseWriter, r *http.Request, a account) error {
	var body bindingRequest
	if err := readJSON(w, r, &body); err != nil {
		return serviceProblem(w, "%v", err)
	}
	t, err := c.store.BindingToken(r.Context(), body.BindingToken)
	if errors.Is(err, store.ErrNotFound) {
		return errTokenNotFound
	}
	if err != nil {
		return err
	}
	return c.bindAndAnswer(w, r, a, body, t.Instance, t.Options, func(store.Binding) any { return struct{}{} })
}

func (c *Controller) bindAndAnswer(w http.ResponseWriter, r *http.Request, a account, body bindingRequest, i store.ServiceInstance, options json.RawMessage,
	answer func(store.Binding) any,
) error {
	app, err := c.appOf(r.Context(), a, body.AppID)
	if err != nil {
		return err
	}
	ctx, cancel := c.detached(r)
	defer cancel()
	b, err := c.bind(ctx, a, app, i, options)
	if errors.Is(err, store.ErrExists) {
		return serviceProblem(w, "the app is bound to %s already", i.Alias)
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, answer(b))
	return nil
}

func (c *Controller) deleteBinding(w http.ResponseWriter, r *http.Request, a account) error {
	b, err := c.store.Binding(r.Context(), r.PathValue("token"))
	if err == nil {
		var app store.App
		if app, err = c.store.AppByID(r.Context(), b.AppID); err == nil && app.OwnerID != a.ID {
			err = store.ErrNotFound
		}
	}
	if err == nil {
		ctx, cancel := c.detached(r)
		defer cancel()
		err = c.unbind(ctx, b)
	}
	if errors.Is(err, store.ErrNotFound) {
		return errBindingNotFound
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

func (c *Controller) createBindingToken(w http.ResponseWriter, r *http.Request, a account) error {
	var body bindingRequest
	if err := readJSON(w, r, &body); err != nil {
		return serviceProblem(w, "%v", err)
	}
	i, err := c.serviceOf(r.Context(), a, body.ServiceID)
	if err != nil {
		return err
	}
	if len(body.Options) == 0 {
		body.Options = json.RawMessage(`{}`)
	}
	t := store.BindingToken{Token: randomToken(), Instance: i, Options: body.Options}
	if err := c.store.CreateBindingToken(r.Context(), t); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"binding_token": t.Token})
	return nil
}

func (c *Controller) bindingToken(r *http.Request) (store.BindingToken, error) {
	t, err := c.store.BindingToken(r.Context(), r.PathValue("token"))
	if errors.Is(err, store.ErrNotFound) {
		return t, errTokenNotFound
	}
	return t, err
}

func (c *Controller) getBindingToken(w http.ResponseWriter, r *http.Request) error {
	t, err := c.bindingToken(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"label": t.Instance.Offering.Label, "binding_options": t.Options})
	return nil
}

func (c *Controller) deleteBindingToken(w http.ResponseWriter, r *http.Request, a account) error {
	t, err := c.bindingToken(r)
	if err == nil && t.Instance.OwnerID != a.ID {
		return errTokenNotFound
	}
	if err == nil {
		err = c.store.DeleteBindingToken(r.Context(), t.Token)
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

// bindTo makes an app's bindings those that its document names.
func (c *Controller) bindTo(ctx context.Context, a account, app store.App, aliases []string) error {
	present, err := c.store.Bindings(ctx, app.ID)
	if err != nil {
		return err
	}
	var bound []string
	for _, b := range present {
		if slices.Contains(aliases, b.Instance.Alias) {
			bound = append(bound, b.Instance.Alias)
			continue
		}
		if err := c.unbind(ctx, b); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	for _, alias := range aliases {
		if slices.Contains(bound, alias) {
			continue
		}
		i, err := c.aliased(ctx, a, alias)
		if err != nil {
			return err
		}
		if _, err := c.bind(ctx, a, app, i, nil); err != nil {
			return err
		}
		bound = append(bound, alias)
	}
	return nil
}

// unbindAll is for an app that goes.
func (c *Controller) unbindAll(ctx context.Context, app store.App) error {
	bindings, err := c.store.Bindings(ctx, app.ID)
	if err != nil {
		return err
	}
	for _, b := range bindings {
		if err := c.unbind(ctx, b); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}

// boundServices is what an app is told of its services.
func (c *Controller) boundServices(ctx context.Context, app store.App) ([]wire.BoundService, error) {
	bindings, err := c.store.Bindings(ctx, app.ID)
	if err != nil {
		return nil, err
	}
	list := []wire.BoundService{}
	for _, b := range bindings {
		o, err := readOffering(b.Instance.Offering)
		if err != nil {
			return nil, err
		}
		one := wire.BoundService{
			Name: b.Instance.Alias, Label: o.name() + "-" + b.Instance.Version, Plan: b.Instance.Plan, Tags: o.Tags,
			Type: o.kind(), Vendor: o.name(), Version: b.Instance.Version, Credentials: b.Credentials, Options: b.Options,
		}
		if b.Instance.PlanOption != "" {
			one.PlanOption = &b.Instance.PlanOption
		}
		list = append(list, one)
	}
	return list, nil
}
