package server

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/clusterworks/deploy/agent/api"
)

// maxConcurrent bounds the requests of one bus connection that are worked on
// at once; most are long polls.
const maxConcurrent = 64

// TooLarge is the Nats-Service-Error-Code of a reply that the bus cannot carry.
// It is the transport that failed, so a client asks over another one.
const TooLarge = "413"

// closing is the Nats-Service-Error-Code for a request that came while the
// service ended. It is the transport that failed, as above.
const closing = "503"

// Service is the API as a NATS micro service.
type Service struct {
	service micro.Service
	cancel  context.CancelFunc

	mu     sync.Mutex // a request may still be delivered while Close waits
	closed bool
	work   sync.WaitGroup
}

// begin runs work on a goroutine that Close waits for, or says that none is
// taken any more.
func (s *Service) begin(work func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.work.Go(work)
	}
	return !s.closed
}

// Identity describes what a service says of itself.
type Identity struct {
	DeploymentID string
	Instance     string
	Address      string
	Version      string // must be a semantic version, else it is only metadata
}

// NATS serves the handlers under api.Subject of the instance, as long as nc
// lives or until Close.
func NATS(nc *nats.Conn, id Identity, handlers map[api.Method]Handler, log *slog.Logger) (*Service, error) {
	version, metadata := id.Version, map[string]string{
		"instance": id.Instance, "deployment_id": id.DeploymentID, "address": id.Address, "agent_version": id.Version,
	}
	if !semantic.MatchString(version) {
		version = "0.0.0"
	}
	service, err := micro.AddService(nc, micro.Config{
		Name: api.ServiceName, Version: version, Description: "deploy agent of " + id.Instance, Metadata: metadata,
		ErrorHandler: func(_ micro.Service, e *micro.NATSError) {
			log.Warn("bus service", "subject", e.Subject, "err", e.Description)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot serve on the bus: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Service{service: service, cancel: cancel}
	slots := make(chan struct{}, maxConcurrent)
	for _, method := range api.Methods() {
		handle := handlers[method]
		endpoint := micro.HandlerFunc(func(r micro.Request) {
			// The subscription's goroutine only starts the work: one long poll
			// must not hold up the next request.
			select {
			case slots <- struct{}{}:
			default:
				respond(nc, r.Reply(), nil, &api.Error{Code: api.CodeInternal, Message: fmt.Sprintf("cannot answer: %d requests are waiting already", maxConcurrent)}, log)
				return
			}
			if !s.begin(func() {
				defer func() { <-slots }()
				reply, refusal := handle(ctx, r.Data())
				respond(nc, r.Reply(), reply, refusal, log)
			}) {
				<-slots
				send(nc, failure(r.Reply(), closing, "the agent changes to another bus", nil), log)
			}
		})
		if err := service.AddEndpoint(string(method), endpoint, micro.WithEndpointSubject(api.Subject(id.Instance, method))); err != nil {
			s.Close()
			return nil, fmt.Errorf("cannot serve %s on the bus: %w", method, err)
		}
	}
	return s, nil
}

// Close ends the subscriptions, lets requests in progress answer and waits for
// them.
func (s *Service) Close() {
	_ = s.service.Stop() // fails only when the connection is gone, and its subscriptions with it
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.work.Wait()
}

// respond answers as micro does. Its own Respond and Error may be called only
// until the handler returns, and ours return before the work is done.
func respond(nc *nats.Conn, to string, reply []byte, refusal *api.Error, log *slog.Logger) {
	answer := &nats.Msg{Subject: to, Data: reply}
	limit := nc.MaxPayload()
	switch {
	case refusal != nil:
		body, _ := json.Marshal(refusal) // plain strings and numbers
		answer = failure(to, string(refusal.Code), refusal.Message, body)
	case limit > 0 && int64(len(reply)) > limit:
		answer = failure(to, TooLarge, fmt.Sprintf("the reply has %d bytes; the bus carries at most %d", len(reply), limit), nil)
	}
	send(nc, answer, log)
}

func failure(to, code, text string, body []byte) *nats.Msg {
	return &nats.Msg{
		Subject: to, Data: body,
		Header: nats.Header{micro.ErrorCodeHeader: {code}, micro.ErrorHeader: {headerText(text)}},
	}
}

func send(nc *nats.Conn, answer *nats.Msg, log *slog.Logger) {
	if answer.Subject == "" {
		return // nobody waits
	}
	if err := nc.PublishMsg(answer); err != nil {
		log.Warn("cannot answer on the bus", "err", err)
	}
}
