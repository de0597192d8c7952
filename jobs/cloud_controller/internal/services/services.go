// Package services offers what service gateways have: instances of services that
// users make and bind to apps.
package services

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Deps are the parts that services work with.
type Deps struct {
	Config *config.Live
	Log    *slog.Logger
	Store  *store.Store
	Client *http.Client // to gateways
	// Restart restarts an app that runs, its instances one by one.
	Restart func(ctx context.Context, appID int64, cause string) error
}

// Services makes instances of services and binds apps to them.
type Services struct {
	Deps
	tunnels   rest.Counter // by instance
	transfers rest.Counter // by instance
}

// New returns the services.
func New(d Deps) *Services { return &Services{Deps: d} }

// provision makes an instance: its name is reserved, the gateway is asked, and
// what it answers is kept, or undone.
func (s *Services) provision(ctx context.Context, a model.Account, o store.Offering, i store.ServiceInstance) (store.ServiceInstance, error) {
	g, err := s.gateway(o)
	if err != nil {
		return i, err
	}
	i.OwnerID, i.Offering = a.ID, o
	if err := s.dropAbandoned(ctx, a); err != nil {
		return i, err
	}
	err = s.Store.CreateServiceInstance(ctx, &i, func(before, after store.Usage) error {
		if after.Services > a.Capacity.Services {
			return model.ErrTooManyServices(before.Services, a.Capacity.Services)
		}
		return nil
	})
	if err != nil {
		return i, err
	}
	request := map[string]any{"label": o.Label, "name": i.Alias, "plan": i.Plan, "email": a.Email, "version": i.Version}
	if i.PlanOption != "" {
		request["plan_option"] = i.PlanOption
	}
	h, err := g.made(ctx, gatewayPath, request)
	if err != nil {
		return i, errors.Join(err, s.Store.DeleteServiceInstance(ctx, i.ID))
	}
	i.GatewayID, i.Configuration, i.Credentials = h.ServiceID, h.Configuration, h.Credentials
	if err := s.Store.SetProvisioned(ctx, i); err != nil {
		_, undo := g.ask(ctx, http.MethodDelete, gatewayPath+"/"+url.PathEscape(h.ServiceID), struct{}{})
		return i, errors.Join(err, undo)
	}
	s.Log.Info("service provisioned", "service", o.Label, "alias", i.Alias, "owner", a.Email)
	return i, nil
}

// dropAbandoned gives back the names that a controller reserved for a user and that
// died before its gateway had answered. If it lives after all, what the gateway
// answers finds no reservation and is undone.
func (s *Services) dropAbandoned(ctx context.Context, a model.Account) error {
	instances, err := s.Store.ServiceInstances(ctx, a.ID)
	if err != nil {
		return err
	}
	for _, i := range instances {
		if i.GatewayID != "" {
			continue
		}
		g, err := s.gateway(i.Offering)
		if err != nil {
			return err
		}
		if time.Since(time.Unix(i.CreatedAt, 0)) <= 2*g.timeout {
			continue // somebody waits for its gateway
		}
		if err := s.Store.DeleteServiceInstance(ctx, i.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		s.Log.Warn("a service was never provisioned; its name is free again", "service", i.Offering.Label, "alias", i.Alias)
	}
	return nil
}

// Unprovision removes an instance with its bindings and then tells the gateway,
// which finds by its handles what it was not told.
func (s *Services) Unprovision(ctx context.Context, i store.ServiceInstance) error {
	bindings, err := s.Store.BindingsTo(ctx, i.ID)
	if err != nil {
		return err
	}
	for _, b := range bindings {
		if err := s.unbind(ctx, b); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	if err := s.Store.DeleteServiceInstance(ctx, i.ID); err != nil {
		return err
	}
	if i.GatewayID == "" {
		return nil
	}
	g, err := s.gateway(i.Offering)
	if err == nil {
		_, err = g.ask(ctx, http.MethodDelete, gatewayPath+"/"+url.PathEscape(i.GatewayID), struct{}{})
	}
	if err != nil {
		s.Log.Warn("a service was deleted here, but not at its gateway", "service", i.Offering.Label, "id", i.GatewayID)
	}
	return nil
}

// bind gives an app the use of an instance.
func (s *Services) bind(ctx context.Context, a model.Account, app store.App, i store.ServiceInstance, options json.RawMessage) (store.Binding, error) {
	if i.GatewayID == "" {
		return store.Binding{}, model.ErrServiceNotFound
	}
	g, err := s.gateway(i.Offering)
	if err != nil {
		return store.Binding{}, err
	}
	if len(options) == 0 {
		options = json.RawMessage(`{}`)
	}
	path := gatewayPath + "/" + url.PathEscape(i.GatewayID) + "/handles"
	request := map[string]any{"service_id": i.GatewayID, "label": i.Offering.Label, "email": a.Email, "binding_options": options}
	if app.Name != "" { // ours only: it is for the people who run the node
		request["app"] = app.Name
	}
	h, err := g.made(ctx, path, request)
	if err != nil {
		return store.Binding{}, err
	}
	b := store.Binding{
		AppID: app.ID, Instance: i, GatewayID: h.ServiceID, Token: rand.Text(), Options: options, Configuration: h.Configuration, Credentials: h.Credentials,
	}
	if err := s.Store.CreateBinding(ctx, b); err != nil {
		s.unbindAtGateway(ctx, b)
		return store.Binding{}, err
	}
	s.Log.Info("service bound", "service", i.Offering.Label, "alias", i.Alias, "app", app.ID)
	return b, nil
}

// unbind forgets a binding and then tells the gateway.
func (s *Services) unbind(ctx context.Context, b store.Binding) error {
	if err := s.Store.DeleteBinding(ctx, b); err != nil {
		return err
	}
	s.unbindAtGateway(ctx, b)
	return nil
}

func (s *Services) unbindAtGateway(ctx context.Context, b store.Binding) {
	g, err := s.gateway(b.Instance.Offering)
	if err == nil {
		path := gatewayPath + "/" + url.PathEscape(b.Instance.GatewayID) + "/handles/" + url.PathEscape(b.GatewayID)
		_, err = g.ask(ctx, http.MethodDelete, path, map[string]any{"service_id": b.Instance.GatewayID, "handle_id": b.GatewayID, "binding_options": b.Options})
	}
	if err != nil {
		s.Log.Warn("a binding was deleted here, but not at its gateway", "service", b.Instance.Offering.Label, "id", b.GatewayID)
	}
}

// aliased finds a user's instance.
func (s *Services) aliased(ctx context.Context, a model.Account, alias string) (store.ServiceInstance, error) {
	i, err := s.Store.ServiceInstance(ctx, a.ID, alias)
	if errors.Is(err, store.ErrNotFound) {
		return i, model.ErrServiceNotFound
	}
	return i, err
}

// BindTo makes an app's bindings those that its document names.
func (s *Services) BindTo(ctx context.Context, a model.Account, app store.App, aliases []string) error {
	present, err := s.Store.Bindings(ctx, app.ID)
	if err != nil {
		return err
	}
	var bound []string
	for _, b := range present {
		if slices.Contains(aliases, b.Instance.Alias) {
			bound = append(bound, b.Instance.Alias)
			continue
		}
		if err := s.unbind(ctx, b); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	for _, alias := range aliases {
		if slices.Contains(bound, alias) {
			continue
		}
		i, err := s.aliased(ctx, a, alias)
		if err != nil {
			return err
		}
		if _, err := s.bind(ctx, a, app, i, nil); err != nil {
			return err
		}
		bound = append(bound, alias)
	}
	return nil
}

// UnbindAll removes the bindings of an app that is deleted.
func (s *Services) UnbindAll(ctx context.Context, app store.App) error {
	bindings, err := s.Store.Bindings(ctx, app.ID)
	if err != nil {
		return err
	}
	for _, b := range bindings {
		if err := s.unbind(ctx, b); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}

// Bound returns what an app is told of its services.
func (s *Services) Bound(ctx context.Context, app store.App) ([]wire.BoundService, error) {
	bindings, err := s.Store.Bindings(ctx, app.ID)
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
