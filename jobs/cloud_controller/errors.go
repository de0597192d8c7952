package cloudcontroller

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// apiError is what a client is told. The codes are the original's.
type apiError struct {
	Status      int    `json:"-"`
	Code        int    `json:"code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (code %d)", e.Description, e.Code) }

var (
	errBadRequest      = &apiError{http.StatusBadRequest, 100, "Bad request"}
	errDatabase        = &apiError{http.StatusInternalServerError, 101, "Error talking with the database"}
	errLocking         = &apiError{http.StatusBadRequest, 102, "Optimistic locking failure"}
	errSystem          = &apiError{http.StatusInternalServerError, 111, "System Exception Encountered"}
	errForbidden       = &apiError{http.StatusForbidden, 200, "Operation not permitted"}
	errUserNotFound    = &apiError{http.StatusForbidden, 201, "User not found"}
	errInvalidApp      = &apiError{http.StatusBadRequest, 300, "Invalid application description"}
	errAppNotFound     = &apiError{http.StatusNotFound, 301, "Application not found"}
	errFileNotFound    = &apiError{http.StatusNotFound, 303, "Could not find the file"}
	errAppStopped      = &apiError{http.StatusBadRequest, 305, "Operation not permitted on a stopped app"}
	errDebugDisallowed = &apiError{http.StatusBadRequest, 309, "Debugging is not permitted"}
	errServiceNotFound = &apiError{http.StatusNotFound, 500, "Service not found"}
	errBindingNotFound = &apiError{http.StatusNotFound, 501, "Binding not found"}
	errTokenNotFound   = &apiError{http.StatusNotFound, 502, "Token not found"}
	errGateway         = &apiError{http.StatusBadGateway, 503, "Unexpected response from service gateway"}
	errExtension       = &apiError{http.StatusNotImplemented, 505, "Service extension is not implemented"}
	errServiceVersion  = &apiError{http.StatusNotFound, 506, "Unsupported service version"}
	errTooManyApps     = &apiError{http.StatusForbidden, 601, "Too many applications"}
	errTooManyURIs     = &apiError{http.StatusForbidden, 602, "Too many URIs"}
	errInvalidURI      = &apiError{http.StatusBadRequest, 700, "Invalid URI"}
	errURITaken        = &apiError{http.StatusBadRequest, 701, "The URI has already been taken or reserved"}
	errExternalURI     = &apiError{http.StatusForbidden, 702, "External URIs are not enabled for this account"}
	errStagingTimedOut = &apiError{http.StatusInternalServerError, 800, "Staging timed out"}
	errNotHereNow      = &apiError{http.StatusServiceUnavailable, 111, "The file cannot be fetched from another controller now, try again"}
	errNoSuchRoute     = &apiError{Status: http.StatusNotFound}
)

// because is an error of the API with what exactly is wrong added.
func because(e *apiError, format string, args ...any) error {
	return &apiError{e.Status, e.Code, e.Description + ": " + fmt.Sprintf(format, args...)}
}

func errNoInstance(which string) error {
	return &apiError{http.StatusBadRequest, 304, fmt.Sprintf("Could not find instance: '%s'", which)}
}

func errFile(path string) error {
	return &apiError{http.StatusInternalServerError, 306, fmt.Sprintf("Error retrieving file '%s'", path)}
}

func errInvalidRuntime(name string) error {
	return because(&apiError{http.StatusBadRequest, 307, "Invalid runtime"}, "%q", name)
}

func errInvalidFramework(name string) error {
	return because(&apiError{http.StatusBadRequest, 308, "Invalid framework"}, "%q", name)
}

func errStaging(reason string) error {
	return &apiError{http.StatusInternalServerError, 310, fmt.Sprintf("Staging failed: '%s'", reason)}
}

func errResourceMissing(err error) error {
	return because(&apiError{http.StatusBadRequest, 401, "A resource is missing"}, "%v", err)
}

func errPackaging(err error) error {
	return &apiError{http.StatusInternalServerError, 402, fmt.Sprintf("App packaging failed: '%v'", err)}
}

func errMemory(allowed int) error {
	return &apiError{http.StatusForbidden, 600, fmt.Sprintf("Not enough memory capacity, allowed: %dM", allowed)}
}

func errTooManyServices(n, allowed int) error {
	return &apiError{http.StatusForbidden, 504, fmt.Sprintf("Too many Services provisioned: %d, allowed %d", n, allowed)}
}

// appError says an error of the store in the API's terms, for apps.
func appError(err error) error {
	var taken *store.HostTakenError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return errAppNotFound
	case errors.Is(err, store.ErrStale):
		return errLocking
	case errors.Is(err, store.ErrExists):
		return because(errInvalidApp, "there is one with this name")
	case errors.As(err, &taken):
		return because(errURITaken, "%s", taken.Host)
	}
	return err
}
