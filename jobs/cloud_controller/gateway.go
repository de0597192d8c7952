package cloudcontroller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// maxGatewayAnswer bounds what is read of a gateway's answer.
const maxGatewayAnswer = 1 << 20

// handle is what a gateway knows of an instance or a binding.
type handle struct {
	ServiceID     string          `json:"service_id"`
	Configuration json.RawMessage `json:"configuration"`
	Credentials   json.RawMessage `json:"credentials"`
}

// gateway is where an offering's instances are made.
type gateway struct {
	c       *Controller
	url     string
	token   string
	timeout time.Duration
}

func (c *Controller) gateway(o store.Offering) (gateway, error) {
	doc, err := readOffering(o)
	if err != nil {
		return gateway{}, err
	}
	settings := c.settings.Load()
	g := gateway{c: c, url: strings.TrimSuffix(doc.URL, "/"), token: settings.BuiltinServices[doc.name()].Token, timeout: settings.Timeouts.Gateway}
	if doc.Timeout > 0 {
		g.timeout = time.Duration(doc.Timeout) * time.Second
	}
	return g, nil
}

// ask calls the gateway; anything but 200 is an error of the API.
func (g gateway) ask(ctx context.Context, method, path string, body any) (handle, error) {
	answer, err := g.call(ctx, method, path, body)
	if err != nil {
		g.c.base.Log().Warn("a service gateway does not do what it is asked for", "method", method, "url", g.url+path, "error", err)
		return handle{}, errGateway
	}
	return answer, nil
}

func (g gateway) call(ctx context.Context, method, path string, body any) (handle, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return handle{}, fmt.Errorf("cannot write the request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, g.url+path, bytes.NewReader(data))
	if err != nil {
		return handle{}, fmt.Errorf("cannot make the request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-VCAP-Service-Token", g.token)
	response, err := g.c.client.Do(request)
	if err != nil {
		return handle{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxGatewayAnswer))
	if err != nil {
		return handle{}, fmt.Errorf("cannot read the answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return handle{}, fmt.Errorf("it answers %s: %.200s", response.Status, text)
	}
	var answer struct {
		handle
		Data json.RawMessage `json:"data"` // configuration, until July 2012
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return handle{}, fmt.Errorf("cannot read the answer: %w", err)
	}
	if answer.Configuration == nil {
		answer.Configuration = answer.Data
	}
	return answer.handle, nil
}

// made is ask for what must come with an id.
func (g gateway) made(ctx context.Context, path string, body any) (handle, error) {
	h, err := g.ask(ctx, http.MethodPost, path, body)
	if err == nil && h.ServiceID == "" {
		g.c.base.Log().Warn("a service gateway has answered without service_id", "url", g.url+path)
		err = errGateway
	}
	return h, err
}

const gatewayPath = "/gateway/v1/configurations"

// provision makes an instance: its name is reserved, the gateway is asked, and
// what it answers is kept, or undone.
func (c *Controller) provision(ctx context.Context, a account, o store.Offering, i store.ServiceInstance) (store.ServiceInstance, error) {
	g, err := c.gateway(o)
	if err != nil {
		return i, err
	}
	i.OwnerID, i.Offering = a.ID, o
	capacity := c.settings.Load().capacity(a.admin)
	err = c.store.CreateServiceInstance(ctx, &i, func(before, after store.Usage) error {
		if after.Services > capacity.Services {
			return errTooManyServices(before.Services, capacity.Services)
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
		return i, errors.Join(err, c.store.DeleteServiceInstance(ctx, i.ID))
	}
	i.GatewayID, i.Configuration, i.Credentials = h.ServiceID, h.Configuration, h.Credentials
	if err := c.store.SetProvisioned(ctx, i); err != nil {
		_, undo := g.ask(ctx, http.MethodDelete, gatewayPath+"/"+url.PathEscape(h.ServiceID), struct{}{})
		return i, errors.Join(err, undo)
	}
	c.base.Log().Info("service provisioned", "service", o.Label, "alias", i.Alias, "owner", a.Email)
	return i, nil
}

// unprovision forgets an instance with its bindings, and then tells the gateway,
// which finds by its handles what it was not told.
func (c *Controller) unprovision(ctx context.Context, i store.ServiceInstance) error {
	bindings, err := c.store.BindingsTo(ctx, i.ID)
	if err != nil {
		return err
	}
	for _, b := range bindings {
		if err := c.unbind(ctx, b); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	if err := c.store.DeleteServiceInstance(ctx, i.ID); err != nil {
		return err
	}
	if i.GatewayID == "" {
		return nil
	}
	g, err := c.gateway(i.Offering)
	if err == nil {
		_, err = g.ask(ctx, http.MethodDelete, gatewayPath+"/"+url.PathEscape(i.GatewayID), struct{}{})
	}
	if err != nil {
		c.base.Log().Warn("a service is gone here and not at its gateway", "service", i.Offering.Label, "id", i.GatewayID)
	}
	return nil
}

// bind gives an app the use of an instance.
func (c *Controller) bind(ctx context.Context, a account, app store.App, i store.ServiceInstance, options json.RawMessage) (store.Binding, error) {
	if i.GatewayID == "" {
		return store.Binding{}, errServiceNotFound
	}
	g, err := c.gateway(i.Offering)
	if err != nil {
		return store.Binding{}, err
	}
	if len(options) == 0 {
		options = json.RawMessage(`{}`)
	}
	path := gatewayPath + "/" + url.PathEscape(i.GatewayID) + "/handles"
	h, err := g.made(ctx, path, map[string]any{"service_id": i.GatewayID, "label": i.Offering.Label, "email": a.Email, "binding_options": options})
	if err != nil {
		return store.Binding{}, err
	}
	b := store.Binding{
		AppID: app.ID, Instance: i, GatewayID: h.ServiceID, Token: randomToken(), Options: options, Configuration: h.Configuration, Credentials: h.Credentials,
	}
	if err := c.store.CreateBinding(ctx, b); err != nil {
		c.unbindAtGateway(ctx, b)
		return store.Binding{}, err
	}
	c.base.Log().Info("service bound", "service", i.Offering.Label, "alias", i.Alias, "app", app.ID)
	return b, nil
}

// unbind forgets a binding and then tells the gateway.
func (c *Controller) unbind(ctx context.Context, b store.Binding) error {
	if err := c.store.DeleteBinding(ctx, b); err != nil {
		return err
	}
	c.unbindAtGateway(ctx, b)
	return nil
}

func (c *Controller) unbindAtGateway(ctx context.Context, b store.Binding) {
	g, err := c.gateway(b.Instance.Offering)
	if err == nil {
		path := gatewayPath + "/" + url.PathEscape(b.Instance.GatewayID) + "/handles/" + url.PathEscape(b.GatewayID)
		_, err = g.ask(ctx, http.MethodDelete, path, map[string]any{"service_id": b.Instance.GatewayID, "handle_id": b.GatewayID, "binding_options": b.Options})
	}
	if err != nil {
		c.base.Log().Warn("a binding is gone here and not at its gateway", "service", b.Instance.Offering.Label, "id", b.GatewayID)
	}
}
