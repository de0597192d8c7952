package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// SubjectRouterRequests is the subject on which a cloud controller asks all routers for the last
// requests to an app, for the app's owner. Ours only: other routers do not answer.
const SubjectRouterRequests = "router.requests" // RequestsAsked, answered with RoutedRequests

// MaxRoutedRequests is the number of requests of an app that a router remembers at most, and
// MaxRoutedText how many bytes of a text of one.
const (
	MaxRoutedRequests = 200
	MaxRoutedText     = 512
)

// RequestsAsked says of which app the requests are wanted.
type RequestsAsked struct {
	App ID `json:"app"`
}

// ParseRequestsAsked decodes a message of SubjectRouterRequests.
func ParseRequestsAsked(data []byte) (RequestsAsked, error) {
	var r RequestsAsked
	if err := json.Unmarshal(data, &r); err != nil {
		return RequestsAsked{}, fmt.Errorf("cannot read a request for an app's requests: %w", err)
	}
	if r.App == "" {
		return RequestsAsked{}, errors.New("cannot answer a request for requests without app")
	}
	return r, nil
}

// RoutedRequests are the last requests to an app that went through a router, the
// latest last. Router is the id of its RouterStart.
type RoutedRequests struct {
	Router   string          `json:"router"`
	Requests []RoutedRequest `json:"requests"`
}

// RoutedRequest is a request that an instance was asked, or failed to be.
type RoutedRequest struct {
	At     time.Time `json:"at"` // when it came
	ID     string    `json:"id"`
	Client string    `json:"client"`
	Method string    `json:"method"`
	Host   string    `json:"host"`
	URI    string    `json:"uri"`    // with its query; MaxRoutedText bytes
	Status int       `json:"status"` // 0: the client left before it was known
	Bytes  int64     `json:"bytes"`  // of the answer's body
	Took   float64   `json:"ms"`     // milliseconds
	Index  ID        `json:"index"`  // of the instance
}

// ParseRoutedRequests decodes an answer to RequestsAsked.
func ParseRoutedRequests(data []byte) (RoutedRequests, error) {
	var r RoutedRequests
	if err := json.Unmarshal(data, &r); err != nil {
		return RoutedRequests{}, fmt.Errorf("cannot read the requests that a router tells: %w", err)
	}
	if len(r.Requests) > MaxRoutedRequests {
		return RoutedRequests{}, fmt.Errorf("cannot use the %d requests that a router tells: %d are the most", len(r.Requests), MaxRoutedRequests)
	}
	return r, nil
}
