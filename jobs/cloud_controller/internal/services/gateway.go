package services

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// maxGatewayAnswer bounds what is read of a gateway's answer.
const maxGatewayAnswer = 1 << 20

// handle is a gateway's record of an instance or a binding.
type handle struct {
	ServiceID     string          `json:"service_id"`
	Configuration json.RawMessage `json:"configuration"`
	Credentials   json.RawMessage `json:"credentials"`
}

// gateway makes an offering's instances.
type gateway struct {
	s       *Services
	url     string
	token   string
	timeout time.Duration
}

func (s *Services) gateway(o store.Offering) (gateway, error) {
	doc, err := readOffering(o)
	if err != nil {
		return gateway{}, err
	}
	settings := s.Config.Now()
	g := gateway{s: s, url: strings.TrimSuffix(doc.URL, "/"), token: settings.BuiltinServices[doc.name()].Token, timeout: settings.Timeouts.Gateway}
	if doc.Timeout > 0 {
		g.timeout = time.Duration(doc.Timeout) * time.Second
	}
	return g, nil
}

// ask calls the gateway; anything but 200 is an error of the API.
func (g gateway) ask(ctx context.Context, method, path string, body any) (handle, error) {
	answer, err := g.call(ctx, method, path, body)
	if err != nil {
		g.s.Log.Warn("a service gateway refused a request", "method", method, "url", g.url+path, "error", err)
		return handle{}, model.ErrGateway
	}
	return answer, nil
}

func (g gateway) call(ctx context.Context, method, path string, body any) (handle, error) {
	status, text, err := g.send(ctx, method, path, body)
	if err != nil {
		return handle{}, err
	}
	if status != http.StatusOK {
		return handle{}, fmt.Errorf("it answers %d: %.200s", status, text)
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

func (g gateway) send(ctx context.Context, method, path string, body any) (status int, text []byte, err error) {
	data, err := json.Marshal(body)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot write the request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, g.url+path, bytes.NewReader(data))
	if err != nil {
		return 0, nil, fmt.Errorf("cannot make the request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-VCAP-Service-Token", g.token)
	response, err := g.s.Client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	if text, err = io.ReadAll(io.LimitReader(response.Body, maxGatewayAnswer)); err != nil {
		return 0, nil, fmt.Errorf("cannot read the answer: %w", err)
	}
	return response.StatusCode, text, nil
}

// relay asks for what concerns an instance's owner and not the controller, and returns
// the gateway's answer, or an error of the API that has the gateway's words.
func (g gateway) relay(ctx context.Context, method, path string, body any) (json.RawMessage, error) {
	status, text, err := g.send(ctx, method, path, body)
	if err != nil {
		g.s.Log.Warn("a service gateway does not answer", "method", method, "url", g.url+path, "error", err)
		return nil, model.ErrGateway
	}
	if status == http.StatusOK && json.Valid(text) {
		return text, nil
	}
	return nil, g.refusal(method, path, status, text)
}

// refusal is an error of the API that has the gateway's words.
func (g gateway) refusal(method, path string, status int, text []byte) error {
	var refusal struct {
		Code        int    `json:"code"`
		Description string `json:"description"`
	}
	if json.Unmarshal(text, &refusal) != nil || refusal.Code == 0 || refusal.Description == "" {
		g.s.Log.Warn("a service gateway answered in a way of its own", "method", method, "url", g.url+path, "status", status)
		return model.ErrGateway
	}
	as := model.ErrGateway
	switch status {
	case http.StatusBadRequest:
		as = model.ErrBadRequest
	case http.StatusNotFound:
		as = model.ErrServiceNotFound
	case http.StatusNotImplemented:
		as = model.ErrExtension
	}
	return model.Because(as, "%.500s", refusal.Description)
}

// open asks for a file, or sends one of length bytes (-1: not known). The caller closes
// the answer, which is a success; ctx bounds all of it.
func (g gateway) open(ctx context.Context, method, path string, body io.Reader, length int64) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, g.url+path, body)
	if err != nil {
		return nil, fmt.Errorf("cannot make the request: %w", err)
	}
	request.ContentLength = length
	request.Header.Set("Content-Type", "application/octet-stream")
	request.Header.Set("X-VCAP-Service-Token", g.token)
	answer, err := g.s.Client.Do(request)
	if err != nil {
		g.s.Log.Warn("a service gateway does not answer", "method", method, "url", g.url+path, "error", err)
		return nil, model.ErrGateway
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxGatewayAnswer))
	if err != nil {
		return nil, model.ErrGateway
	}
	return nil, g.refusal(method, path, answer.StatusCode, text)
}

// made asks for something new, which must come with an id.
func (g gateway) made(ctx context.Context, path string, body any) (handle, error) {
	h, err := g.ask(ctx, http.MethodPost, path, body)
	if err == nil && h.ServiceID == "" {
		g.s.Log.Warn("a service gateway answered without service_id", "url", g.url+path)
		err = model.ErrGateway
	}
	return h, err
}

const gatewayPath = "/gateway/v1/configurations"
