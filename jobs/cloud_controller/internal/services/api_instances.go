package services

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// instanceEntry describes an instance for vmc.
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

func (api *API) listServices(w http.ResponseWriter, r *http.Request, a model.Account) error {
	instances, err := api.Store.ServiceInstances(r.Context(), a.ID)
	if err != nil {
		return err
	}
	list := []map[string]any{}
	for _, i := range instances {
		if i.GatewayID == "" {
			continue // it is being made, and may never be
		}
		entry, err := instanceEntry(i)
		if err != nil {
			return err
		}
		list = append(list, entry)
	}
	rest.WriteJSON(w, http.StatusOK, list)
	return nil
}

func (api *API) getService(w http.ResponseWriter, r *http.Request, a model.Account) error {
	i, err := api.aliased(r.Context(), a, r.PathValue("alias"))
	if err == nil && i.GatewayID == "" {
		err = model.ErrServiceNotFound
	}
	if err != nil {
		return err
	}
	entry, err := instanceEntry(i)
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, entry)
	return nil
}

func (api *API) deleteService(w http.ResponseWriter, r *http.Request, a model.Account) error {
	i, err := api.aliased(r.Context(), a, r.PathValue("alias"))
	if err != nil {
		return err
	}
	ctx, cancel := api.Frame.Detached(r)
	defer cancel()
	if err := api.Unprovision(ctx, i); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			return model.ErrServiceNotFound
		}
		return err
	}
	rest.WriteJSON(w, http.StatusOK, struct{}{})
	return nil
}

// createService provisions as vmc asks for it.
func (api *API) createService(w http.ResponseWriter, r *http.Request, a model.Account) error {
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
	if err := rest.ReadJSON(w, r, &body); err != nil {
		return legacyProblem(w, "%v", err)
	}
	if body.Vendor == "" || body.Tier == "" || !serviceAlias.MatchString(body.Name) {
		return legacyProblem(w, "vendor, tier or a valid name is missing")
	}
	matches := func(o offered) bool { return o.name() == body.Vendor }
	i := store.ServiceInstance{Alias: body.Name, Plan: body.Tier, PlanOption: body.Options.PlanOption, Version: body.Version}
	return api.provisionOf(w, r, a, matches, body.Provider, i, legacyProblem)
}

// createConfiguration provisions as newer clients ask for it.
func (api *API) createConfiguration(w http.ResponseWriter, r *http.Request, a model.Account) error {
	var body struct {
		Label      string `json:"label"`
		Name       string `json:"name"`
		Plan       string `json:"plan"`
		Version    string `json:"version"`
		PlanOption string `json:"plan_option"`
		Provider   string `json:"provider"`
	}
	if err := rest.ReadJSON(w, r, &body); err != nil {
		return serviceProblem(w, "%v", err)
	}
	if body.Label == "" || body.Plan == "" || !serviceAlias.MatchString(body.Name) {
		return serviceProblem(w, "label, plan or a valid name is missing")
	}
	matches := func(o offered) bool { return o.Label == body.Label }
	i := store.ServiceInstance{Alias: body.Name, Plan: body.Plan, PlanOption: body.PlanOption, Version: body.Version}
	return api.provisionOf(w, r, a, matches, body.Provider, i, serviceProblem)
}

// provisionOf provisions an instance of the first offering that matches and has
// the version, and answers.
func (api *API) provisionOf(w http.ResponseWriter, r *http.Request, a model.Account, matches func(offered) bool, provider string, i store.ServiceInstance,
	problem func(http.ResponseWriter, string, ...any) error,
) error {
	list, err := api.offered(r.Context(), a.Email)
	if err != nil {
		return err
	}
	refusal := model.ErrServiceNotFound
	for _, o := range list {
		if !matches(o) || provider != "" && provider != o.provider() {
			continue
		}
		version := i.Version
		if of, ok := o.Aliases[version]; ok {
			version = of
		}
		if version != "" && !slices.Contains(o.versions(), version) {
			refusal = model.ErrServiceVersion
			continue
		}
		i.Version = cmp.Or(version, o.version())
		return api.provisionAndAnswer(w, r, a, o, i, problem)
	}
	return refusal
}

func (api *API) provisionAndAnswer(w http.ResponseWriter, r *http.Request, a model.Account, o offered, i store.ServiceInstance,
	problem func(http.ResponseWriter, string, ...any) error,
) error {
	if len(o.Plans) > 0 && !slices.Contains(o.Plans, i.Plan) {
		return problem(w, "%s has no plan %q", o.Label, i.Plan)
	}
	ctx, cancel := api.Frame.Detached(r)
	defer cancel()
	i, err := api.provision(ctx, a, o.stored, i)
	if errors.Is(err, store.ErrExists) {
		return problem(w, "there is a service called %q already", i.Alias)
	}
	if err != nil {
		return err
	}
	var answer any = struct{}{}
	if strings.HasPrefix(r.URL.Path, "/services/v1/") {
		answer = map[string]any{"service_id": i.GatewayID, "data": i.Configuration, "credentials": i.Credentials}
	}
	rest.WriteJSON(w, http.StatusOK, answer)
	return nil
}
