package services

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// maxOptions bounds the options of a binding, which are kept, in bytes.
const maxOptions = 16 << 10

type bindingRequest struct {
	ServiceID    string          `json:"service_id"` // the user's name for it, or the gateway's
	AppID        json.RawMessage `json:"app_id"`     // number or name
	Options      json.RawMessage `json:"binding_options"`
	BindingToken string          `json:"binding_token"`
}

// appOf finds a user's app by its number or name.
func (api *API) appOf(ctx context.Context, a model.Account, which json.RawMessage) (store.App, error) {
	var id wire.ID
	if err := json.Unmarshal(which, &id); err != nil {
		return store.App{}, model.ErrAppNotFound
	}
	if n, err := strconv.ParseInt(string(id), 10, 64); err == nil {
		app, err := api.Store.AppByID(ctx, n)
		if err == nil && app.OwnerID == a.ID {
			return app, nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return store.App{}, err
		}
	}
	app, err := api.Store.App(ctx, a.ID, string(id))
	return app, model.AppError(err)
}

// serviceOf finds a user's instance by either name.
func (api *API) serviceOf(ctx context.Context, a model.Account, id string) (store.ServiceInstance, error) {
	instances, err := api.Store.ServiceInstances(ctx, a.ID)
	if err != nil {
		return store.ServiceInstance{}, err
	}
	for _, i := range instances {
		if i.Alias == id || i.GatewayID != "" && i.GatewayID == id {
			return i, nil
		}
	}
	return store.ServiceInstance{}, model.ErrServiceNotFound
}

// readBinding reads a request about a binding.
func readBinding(w http.ResponseWriter, r *http.Request) (body bindingRequest, err error) {
	if err := rest.ReadJSON(w, r, &body); err != nil {
		return body, err
	}
	if len(body.Options) > maxOptions {
		return body, fmt.Errorf("binding_options have more than %d bytes", maxOptions)
	}
	return body, nil
}

func (api *API) createBinding(w http.ResponseWriter, r *http.Request, a model.Account) error {
	body, err := readBinding(w, r)
	if err != nil {
		return serviceProblem(w, "%v", err)
	}
	i, err := api.serviceOf(r.Context(), a, body.ServiceID)
	if err != nil {
		return err
	}
	return api.bindAndAnswer(w, r, a, body, i, body.Options, func(b store.Binding) any {
		return map[string]string{"binding_token": b.Token, "label": i.Offering.Label}
	})
}

func (api *API) createExternalBinding(w http.ResponseWriter, r *http.Request, a model.Account) error {
	body, err := readBinding(w, r)
	if err != nil {
		return serviceProblem(w, "%v", err)
	}
	t, err := api.Store.BindingToken(r.Context(), body.BindingToken)
	if errors.Is(err, store.ErrNotFound) {
		return model.ErrTokenNotFound
	}
	if err != nil {
		return err
	}
	return api.bindAndAnswer(w, r, a, body, t.Instance, t.Options, func(store.Binding) any { return struct{}{} })
}

func (api *API) bindAndAnswer(w http.ResponseWriter, r *http.Request, a model.Account, body bindingRequest, i store.ServiceInstance, options json.RawMessage,
	answer func(store.Binding) any,
) error {
	app, err := api.appOf(r.Context(), a, body.AppID)
	if err != nil {
		return err
	}
	ctx, cancel := api.Frame.Detached(r)
	defer cancel()
	b, err := api.bind(ctx, a, app, i, options)
	if errors.Is(err, store.ErrExists) {
		return serviceProblem(w, "the app is bound to %s already", i.Alias)
	}
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, answer(b))
	return nil
}

func (api *API) deleteBinding(w http.ResponseWriter, r *http.Request, a model.Account) error {
	b, err := api.Store.Binding(r.Context(), r.PathValue("token"))
	if err == nil {
		var app store.App
		if app, err = api.Store.AppByID(r.Context(), b.AppID); err == nil && app.OwnerID != a.ID {
			err = store.ErrNotFound
		}
	}
	if err == nil {
		ctx, cancel := api.Frame.Detached(r)
		defer cancel()
		err = api.unbind(ctx, b)
	}
	if errors.Is(err, store.ErrNotFound) {
		return model.ErrBindingNotFound
	}
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, struct{}{})
	return nil
}

func (api *API) createBindingToken(w http.ResponseWriter, r *http.Request, a model.Account) error {
	body, err := readBinding(w, r)
	if err != nil {
		return serviceProblem(w, "%v", err)
	}
	i, err := api.serviceOf(r.Context(), a, body.ServiceID)
	if err != nil {
		return err
	}
	if len(body.Options) == 0 {
		body.Options = json.RawMessage(`{}`)
	}
	t := store.BindingToken{Token: rand.Text(), Instance: i, Options: body.Options}
	err = api.Store.CreateBindingToken(r.Context(), t)
	if errors.Is(err, store.ErrTooMany) {
		return serviceProblem(w, "%s has %d binding tokens, which are the most; delete one", i.Alias, store.MaxBindingTokens)
	}
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, map[string]string{"binding_token": t.Token})
	return nil
}

func (api *API) bindingToken(r *http.Request) (store.BindingToken, error) {
	t, err := api.Store.BindingToken(r.Context(), r.PathValue("token"))
	if errors.Is(err, store.ErrNotFound) {
		return t, model.ErrTokenNotFound
	}
	return t, err
}

func (api *API) getBindingToken(w http.ResponseWriter, r *http.Request) error {
	t, err := api.bindingToken(r)
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, map[string]any{"label": t.Instance.Offering.Label, "binding_options": t.Options})
	return nil
}

func (api *API) deleteBindingToken(w http.ResponseWriter, r *http.Request, a model.Account) error {
	t, err := api.bindingToken(r)
	if err == nil && t.Instance.OwnerID != a.ID {
		return model.ErrTokenNotFound
	}
	if err == nil {
		err = api.Store.DeleteBindingToken(r.Context(), t.Token)
	}
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, struct{}{})
	return nil
}
