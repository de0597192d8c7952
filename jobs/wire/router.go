package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Subjects between the router and whatever has a URL.
const (
	SubjectRouterRegister   = "router.register"   // Registration
	SubjectRouterUnregister = "router.unregister" // Registration
	SubjectRouterStart      = "router.start"      // RouterStart, published by a router
	SubjectRouterGreet      = "router.greet"      // request without payload, answered with RouterStart
)

// The router's times, as in the original.
const (
	RouterStartInterval = 30 * time.Second  // between two RouterStart
	RouterPruneInterval = 30 * time.Second  // between two looks for stale routes
	RouterStaleAfter    = 120 * time.Second // a route not registered again for longer is dropped
	// RegisterInterval is the interval at which a component registers again by itself when no
	// router told it otherwise: gorouter's, which unlike the original announces
	// itself just once.
	RegisterInterval = 20 * time.Second
)

// RouterVersion is the protocol version of RouterStart, the last v1 router's.
const RouterVersion = 0.98

// HeaderFrontKey proves that a request comes from a front whose word on its client
// counts: a load balancer to a router, and a router to a component, show the key
// that the other side has named.
const HeaderFrontKey = "X-Deploy-Front-Key"

// HeaderApp in a request of a front that is believed asks a router to say in the
// same header of the answer whose it is: name/index of the app's instance, with the
// name escaped as in a URL. Fronts log it and pass it on to nobody.
const HeaderApp = "X-Deploy-App"

// Registration tells routers that Host:Port serves URIs. Unregistering is the
// same document.
type Registration struct {
	// DEA is the uuid of the DEA that runs the instance; for people.
	DEA string `json:"dea,omitempty"`
	App ID     `json:"app,omitempty"`
	// AppName is the app's name, for access logs; "": it has none.
	AppName string `json:"app_name,omitempty"`
	// Host is an IP address and Port its TCP port; both are required.
	Host string `json:"host"`
	Port int    `json:"port"`
	// URIs are host names without a scheme; required, may be empty.
	URIs []string `json:"uris"`
	Tags Tags     `json:"tags,omitempty"`
	// PrivateInstanceID is the sticky session's value, unique to the instance.
	PrivateInstanceID    string `json:"private_instance_id,omitempty"`
	PrivateInstanceIndex ID     `json:"private_instance_index,omitempty"`
	// FrontKey holds what routers shall show in HeaderFrontKey with each request to this
	// address, so that it knows them; "": nothing. Apps never have one.
	FrontKey string `json:"front_key,omitempty"`
	// RouteServiceURL is gorouter's: all requests are to pass that service first.
	// Our router cannot do it and ignores such a registration.
	RouteServiceURL string `json:"route_service_url,omitempty"`
	// StaleThresholdInSeconds lowers (never raises) RouterStaleAfter; 0 leaves it.
	StaleThresholdInSeconds int `json:"stale_threshold_in_seconds,omitempty"`
}

// ParseRegistration decodes and validates a message of SubjectRouterRegister or
// SubjectRouterUnregister.
func ParseRegistration(data []byte) (Registration, error) {
	var r Registration
	if !plainRegistration(data, &r) {
		r = Registration{}
		if err := json.Unmarshal(data, &r); err != nil {
			return Registration{}, fmt.Errorf("cannot read a registration: %w", err)
		}
	}
	if err := r.Validate(); err != nil {
		return Registration{}, err
	}
	return r, nil
}

// Validate says why routers would ignore the registration.
func (r Registration) Validate() error {
	switch {
	case r.Host == "":
		return errors.New("cannot use a registration without host")
	case r.Port < 1 || r.Port > 65535:
		return fmt.Errorf("cannot use a registration of %s: port %d is not within 1 and 65535", r.Host, r.Port)
	case r.URIs == nil:
		return fmt.Errorf("cannot use a registration of %s:%d without uris", r.Host, r.Port)
	}
	return nil
}

// RouterStart describes how a router asks everyone with a URL to register. The two
// last fields are gorouter's; the original sent the others only.
type RouterStart struct {
	ID      string   `json:"id"`
	Version float64  `json:"version,omitempty"`
	Hosts   []string `json:"hosts"`
	// MinimumRegisterIntervalInSeconds is the interval at which to register again, 0 if the
	// router did not say.
	MinimumRegisterIntervalInSeconds int `json:"minimumRegisterIntervalInSeconds,omitempty"`
	PruneThresholdInSeconds          int `json:"pruneThresholdInSeconds,omitempty"`
}

// ParseRouterStart decodes a message of SubjectRouterStart or the answer to
// SubjectRouterGreet.
func ParseRouterStart(data []byte) (RouterStart, error) {
	var s RouterStart
	if err := json.Unmarshal(data, &s); err != nil {
		return RouterStart{}, fmt.Errorf("cannot read a router.start: %w", err)
	}
	return s, nil
}

// Interval returns the interval at which the router wants a registration again, RegisterInterval
// if it does not say. It is kept within a second and RouterStaleAfter/3, so that
// no router's word can make routes go stale or flood the bus.
func (s RouterStart) Interval() time.Duration {
	if s.MinimumRegisterIntervalInSeconds <= 0 {
		return RegisterInterval
	}
	limit := RouterStaleAfter / 3
	if s.MinimumRegisterIntervalInSeconds > int(limit/time.Second) {
		return limit
	}
	return time.Duration(s.MinimumRegisterIntervalInSeconds) * time.Second
}
