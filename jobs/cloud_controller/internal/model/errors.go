// Package model has what all parts of the controller share: errors of the API,
// accounts, runtimes and frameworks, and how other components name an app.
package model

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// Error is an answer of the API that is no success. The codes are the original's.
type Error struct {
	Status      int    `json:"-"`
	Code        int    `json:"code"`
	Description string `json:"description"`
}

func (e *Error) Error() string { return fmt.Sprintf("%s (code %d)", e.Description, e.Code) }

// The errors without arguments.
var (
	ErrBadRequest      = &Error{http.StatusBadRequest, 100, "Bad request"}
	ErrDatabase        = &Error{http.StatusInternalServerError, 101, "Error talking with the database"}
	ErrDatabaseAway    = &Error{http.StatusServiceUnavailable, 101, "The database cannot be reached now, try again"}
	ErrLocking         = &Error{http.StatusBadRequest, 102, "Optimistic locking failure"}
	ErrSystem          = &Error{http.StatusInternalServerError, 111, "System Exception Encountered"}
	ErrForbidden       = &Error{http.StatusForbidden, 200, "Operation not permitted"}
	ErrUserNotFound    = &Error{http.StatusForbidden, 201, "User not found"}
	ErrInvalidApp      = &Error{http.StatusBadRequest, 300, "Invalid application description"}
	ErrAppNotFound     = &Error{http.StatusNotFound, 301, "Application not found"}
	ErrFileNotFound    = &Error{http.StatusNotFound, 303, "Could not find the file"}
	ErrAppStopped      = &Error{http.StatusBadRequest, 305, "Operation not permitted on a stopped app"}
	ErrDebugDisallowed = &Error{http.StatusBadRequest, 309, "Debugging is not permitted"}
	ErrServiceNotFound = &Error{http.StatusNotFound, 500, "Service not found"}
	ErrBindingNotFound = &Error{http.StatusNotFound, 501, "Binding not found"}
	ErrTokenNotFound   = &Error{http.StatusNotFound, 502, "Token not found"}
	ErrGateway         = &Error{http.StatusBadGateway, 503, "Unexpected response from service gateway"}
	ErrExtension       = &Error{http.StatusNotImplemented, 505, "Service extension is not implemented"}
	ErrServiceVersion  = &Error{http.StatusNotFound, 506, "Unsupported service version"}
	ErrTooManyApps     = &Error{http.StatusForbidden, 601, "Too many applications"}
	ErrTooManyStarted  = &Error{http.StatusForbidden, 603, "Too many instances"}
	ErrTooManyURIs     = &Error{http.StatusForbidden, 602, "Too many URIs"}
	ErrTooManySessions = &Error{http.StatusForbidden, 604, "Too many sessions"}
	ErrTooManyStarts   = &Error{http.StatusTooManyRequests, 605, "Too many starts in a minute"}
	ErrNoSessions      = &Error{http.StatusServiceUnavailable, 111, "There are no sessions"}
	ErrInvalidURI      = &Error{http.StatusBadRequest, 700, "Invalid URI"}
	ErrURITaken        = &Error{http.StatusBadRequest, 701, "The URI has already been taken or reserved"}
	ErrExternalURI     = &Error{http.StatusForbidden, 702, "External URIs are not enabled for this account"}
	ErrStagingTimedOut = &Error{http.StatusInternalServerError, 800, "Staging timed out"}
	ErrNotHereNow      = &Error{http.StatusServiceUnavailable, 111, "The file cannot be fetched from another controller now, try again"}
	ErrBusy            = &Error{http.StatusServiceUnavailable, 111, "Too many logins at once, try again"}
	ErrAccountsMove    = &Error{http.StatusServiceUnavailable, 111, "The accounts are being moved, try again"}
	ErrUAAAway         = &Error{http.StatusServiceUnavailable, 111, "The user component cannot be asked now, try again"}
	ErrNoSuchRoute     = &Error{Status: http.StatusNotFound}
)

// Because returns an error of the API with the details added.
func Because(e *Error, format string, args ...any) error {
	return &Error{e.Status, e.Code, e.Description + ": " + fmt.Sprintf(format, args...)}
}

// ErrNoInstance returns the error of the protocol for this: an app has no such instance.
func ErrNoInstance(which string) error {
	return &Error{http.StatusBadRequest, 304, fmt.Sprintf("Could not find instance: '%s'", which)}
}

// ErrFile returns the error of the protocol for this: a DEA does not give a file.
func ErrFile(path string) error {
	return &Error{http.StatusInternalServerError, 306, fmt.Sprintf("Error retrieving file '%s'", path)}
}

// ErrInvalidRuntime returns the error of the protocol for this: the framework has no
// such runtime, but those that are given.
func ErrInvalidRuntime(name, framework string, has []string) error {
	return Because(&Error{http.StatusBadRequest, 307, "Invalid runtime"}, "%q; apps of framework %s can have %s", name, framework, strings.Join(has, ", "))
}

// ErrInvalidFramework returns the error of the protocol for this: there is no such
// framework, but those that are given.
func ErrInvalidFramework(name string, has []string) error {
	return Because(&Error{http.StatusBadRequest, 308, "Invalid framework"}, "%q; there are %s", name, strings.Join(has, ", "))
}

// ErrStaging returns the error of the protocol for this: no droplet was made.
func ErrStaging(reason string) error {
	return &Error{http.StatusInternalServerError, 310, fmt.Sprintf("Staging failed: '%s'", reason)}
}

// ErrResourceMissing returns the error of the protocol for this: an upload names a file that is not known.
func ErrResourceMissing(err error) error {
	return Because(&Error{http.StatusBadRequest, 401, "A resource is missing"}, "%v", err)
}

// ErrPackaging returns the error of the protocol for this: an upload is refused.
func ErrPackaging(err error) error {
	return &Error{http.StatusInternalServerError, 402, fmt.Sprintf("App packaging failed: '%v'", err)}
}

// ErrMemory returns the error of the protocol for this: the account has no memory left.
func ErrMemory(allowed int) error {
	return &Error{http.StatusForbidden, 600, fmt.Sprintf("Not enough memory capacity, allowed: %dM", allowed)}
}

// ErrTooManyServices returns the error of the protocol for this: the account has no services left.
func ErrTooManyServices(n, allowed int) error {
	return &Error{http.StatusForbidden, 504, fmt.Sprintf("Too many Services provisioned: %d, allowed %d", n, allowed)}
}

// AppError turns an error of the store about an app into the API's.
func AppError(err error) error {
	var taken *store.HostTakenError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return ErrAppNotFound
	case errors.Is(err, store.ErrStale):
		return ErrLocking
	case errors.Is(err, store.ErrExists):
		return Because(ErrInvalidApp, "there is one with this name")
	case errors.As(err, &taken) && taken.Overlaps:
		return Because(ErrURITaken, "%s", taken)
	case errors.As(err, &taken):
		return Because(ErrURITaken, "%s", taken.Host)
	}
	return err
}
