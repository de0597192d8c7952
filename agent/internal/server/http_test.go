package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
)

// echo answers with what it was asked.
type echo struct{}

func (echo) Inventory(context.Context) (api.Inventory, error) {
	return api.Inventory{Instance: "web/0"}, nil
}
func (echo) Spec(_ context.Context, r api.SpecRequest) (api.Spec, error) {
	return api.Spec{Generation: r.Generation}, nil
}
func (echo) Log(_ context.Context, r api.LogRequest) (api.LogChunk, error) {
	return api.LogChunk{File: r.File, Next: r.Offset}, nil
}
func (echo) Drift(context.Context) (api.DriftReport, error) {
	return api.DriftReport{Drift: []api.Drift{{Path: "jobs/web"}}}, nil
}
func (echo) Census(context.Context) (api.CensusReport, error) {
	return api.CensusReport{Jobs: []api.JobCensus{{Job: "web"}}}, nil
}
func (echo) Metrics(context.Context) (api.Metrics, error) {
	return api.Metrics{Families: []api.MetricFamily{{Name: "up"}}}, nil
}
func (echo) Submit(_ context.Context, s api.Submission) (api.Operation, error) {
	if s.OpID == "" {
		return api.Operation{}, &api.Error{Code: api.CodeBadRequest, Message: "no op_id"}
	}
	return api.Operation{OpID: s.OpID, Kind: s.Kind}, nil
}
func (echo) Wait(context.Context, api.WaitRequest) (api.Progress, error) {
	return api.Progress{}, errors.New("disk full")
}
func (echo) Cancel(_ context.Context, r api.CancelRequest) (api.Operation, error) {
	return api.Operation{OpID: r.OpID}, nil
}

func TestHTTP(t *testing.T) {
	handler := HTTP(Handlers(echo{}))
	for _, tc := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v1/inventory", "", 200, `"instance":"web/0"`},
		{"POST", "/v1/spec", `{"generation":"g1"}`, 200, `"generation":"g1"`},
		{"POST", "/v1/spec", `{"generation":"g1","of the future":1}`, 200, `"generation":"g1"`},
		{"POST", "/v1/submit", `{"op_id":"1","kind":"watch"}`, 200, `"op_id":"1"`},
		{"POST", "/v1/submit", `{}`, 400, `"code":"bad_request"`},
		{"POST", "/v1/submit", `{"epoch":-1}`, 400, `"code":"bad_request"`},
		{"POST", "/v1/submit", `{`, 400, `"code":"bad_request"`},
		{"POST", "/v1/wait", `{}`, 500, `"code":"internal","message":"disk full"`},
		{"GET", "/v1/inventory", "", 405, ""},
		{"POST", "/v1/dance", "", 404, ""},
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(tc.method, tc.path, strings.NewReader(tc.body)))
		if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.want) {
			t.Errorf("%s %s %s: got %d %s", tc.method, tc.path, tc.body, w.Code, w.Body)
		}
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("POST", "/v1/spec", io.LimitReader(zeros{}, maxRequest+1)))
	if w.Code != 400 || !strings.Contains(w.Body.String(), "too large") {
		t.Errorf("a request without end: %d %s", w.Code, w.Body)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// Whatever is sent, the answer is JSON: a reply or an api.Error.
func FuzzHTTP(f *testing.F) {
	handler := HTTP(Handlers(echo{}))
	for _, m := range api.Methods() {
		f.Add(string(m), []byte(`{"op_id":"1","expect":null,"prepare":{"spec":{"jobs":[{"files":[{"content":"eA=="}]}]}}}`))
		f.Add(string(m), []byte(`{"since":-1,"offset":1e99}`))
	}
	f.Fuzz(func(t *testing.T, method string, body []byte) {
		known := false
		for _, m := range api.Methods() {
			known = known || string(m) == method
		}
		if !known {
			return
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("POST", "/v1/"+method, bytes.NewReader(body)))
		var e api.Error
		if !json.Valid(w.Body.Bytes()) || w.Code != 200 && (json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Code == "") {
			t.Errorf("got %d %q", w.Code, w.Body)
		}
	})
}
