package api

import (
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// maxStartTime is the time that a start may take at most, in seconds, and maxEndpoint how
// long the path of a check may be, in bytes.
const (
	maxStartTime = 3600
	maxEndpoint  = 512
)

// changeHealth takes how an instance's health is found out. What is absent stays;
// "" and 0 give it back to the DEA.
func changeHealth(h *store.Health, body appRequest) error {
	told := body.Health
	if told == nil {
		return nil
	}
	if told.Type != nil {
		h.Type = *told.Type
	}
	if told.Endpoint != nil {
		h.Endpoint = *told.Endpoint
	}
	if told.Timeout != nil {
		h.Timeout = int(*told.Timeout)
	}
	switch {
	case h.Type != "" && !slices.Contains(wire.CheckTypes, h.Type):
		return model.Because(model.ErrInvalidApp, "the health check %q is none of %s", h.Type, strings.Join(wire.CheckTypes, ", "))
	case len(h.Endpoint) > maxEndpoint || strings.ContainsFunc(h.Endpoint, func(r rune) bool { return r == ' ' || unicode.IsControl(r) }):
		return model.Because(model.ErrInvalidApp, "the health check's endpoint is longer than %d bytes, or has blanks in it", maxEndpoint)
	case h.Type == wire.CheckHTTP && h.Endpoint == "":
		h.Endpoint = "/"
	case h.Type == wire.CheckHTTP && !strings.HasPrefix(h.Endpoint, "/"):
		return model.Because(model.ErrInvalidApp, "the endpoint %q of the health check http does not begin with /", h.Endpoint)
	case h.Type == wire.CheckFile && (h.Endpoint == "" || path.Clean("/"+h.Endpoint) != "/"+h.Endpoint):
		return model.Because(model.ErrInvalidApp, "the endpoint %q of the health check file is no path below the app's folder", h.Endpoint)
	case h.Timeout < 0 || h.Timeout > maxStartTime:
		return model.Because(model.ErrInvalidApp, "a start may take 1 to %d seconds, not %d", maxStartTime, h.Timeout)
	}
	return nil
}
