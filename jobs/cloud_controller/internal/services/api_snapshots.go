package services

import (
	"io"
	"net/http"
	"net/url"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/wire"
)

// relayed passes a request about an instance of the user on to its gateway, which answers
// it: below is the rest of the path, made of the request's own.
func (api *API) relayed(below func(r *http.Request) []string) func(http.ResponseWriter, *http.Request, model.Account) error {
	return func(w http.ResponseWriter, r *http.Request, a model.Account) error {
		i, err := api.owned(r, a)
		if err != nil {
			return err
		}
		body := map[string]any{}
		if r.Method == http.MethodPost && r.ContentLength != 0 {
			if err := rest.ReadJSON(w, r, &body); err != nil {
				return serviceProblem(w, "%v", err)
			}
		} else {
			_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, rest.MaxBody)) // it says nothing more
		}
		g, err := api.gateway(i.Offering)
		if err != nil {
			return err
		}
		path := gatewayPath + "/" + url.PathEscape(i.GatewayID)
		for _, element := range below(r) {
			if !wire.ValidServiceInstance(element) { // it would be another path
				return model.Because(model.ErrServiceNotFound, "there is no %.100q", element)
			}
			path += "/" + element
		}
		answer, err := g.relay(r.Context(), r.Method, path, body)
		if err != nil {
			return err
		}
		rest.WriteJSON(w, http.StatusOK, answer)
		if r.Method != http.MethodGet {
			api.Log.Info("asked for a job of a service", "alias", i.Alias, "service", i.Offering.Label, "owner", a.Email, "method", r.Method, "path", path)
		}
		return nil
	}
}

// snapshotRoutes adds what an instance's owner may do with snapshots of it.
func (api *API) snapshotRoutes(userJSON func(string, func(http.ResponseWriter, *http.Request, model.Account) error)) {
	all := api.relayed(func(*http.Request) []string { return []string{"snapshots"} })
	one := api.relayed(func(r *http.Request) []string { return []string{"snapshots", r.PathValue("snapshot")} })
	job := api.relayed(func(r *http.Request) []string { return []string{"jobs", r.PathValue("job")} })
	userJSON("GET /services/v1/configurations/{alias}/snapshots", all)
	userJSON("POST /services/v1/configurations/{alias}/snapshots", all)
	userJSON("GET /services/v1/configurations/{alias}/snapshots/{snapshot}", one)
	userJSON("PUT /services/v1/configurations/{alias}/snapshots/{snapshot}", one)
	userJSON("DELETE /services/v1/configurations/{alias}/snapshots/{snapshot}", one)
	userJSON("GET /services/v1/configurations/{alias}/jobs/{job}", job)
	userJSON("POST /services/v1/configurations/{alias}/serialized/url/snapshots/{snapshot}", api.relayed(func(r *http.Request) []string {
		return []string{"serialized", "url", "snapshots", r.PathValue("snapshot")}
	}))
}
