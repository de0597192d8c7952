package router

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/router/internal/upstream"
)

const (
	notFoundText   = "VCAP ROUTER: 404 - DESTINATION NOT FOUND"
	noAnswerText   = "VCAP ROUTER: 502 - NO INSTANCE ANSWERS"
	badRequestText = "VCAP ROUTER: 400 - REQUEST WITHOUT A HOST"
	busyText       = "VCAP ROUTER: 503 - ALL INSTANCES HAVE AS MANY REQUESTS AS THEY MAY"
	slowClientText = "VCAP ROUTER: 408 - THE CLIENT DID NOT SEND ITS REQUEST IN TIME"
)

// statusClientGone is nginx's status for a client that did not wait.
const statusClientGone = 499

var (
	// errNoBackend: every backend was tried or the last one has just left.
	errNoBackend = errors.New("no backend is left to try")
	// errBusy: those that are left have all the requests that they may have.
	errBusy = errors.New("all instances have as many requests as they may")
)

// badAnswer is an answer that cannot be passed on.
type badAnswer string

func (b badAnswer) Error() string { return "cannot pass the app's answer on: " + string(b) }

// checkAnswer refuses what the ones in front would refuse, so that it is the app
// that failed and not the router.
func checkAnswer(res *http.Response) error {
	if res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols {
		return badAnswer(fmt.Sprintf("its status is %03d", res.StatusCode))
	}
	return nil
}

// failed answers when no backend did.
func (r *Router) failed(w http.ResponseWriter, x *exchange, method string, err error) {
	var text string
	x.status, text = r.explain(x, err)
	addr := ""
	if x.backend != nil {
		addr = x.backend.Addr
	}
	r.base.Log().Warn("request failed", "host", x.host, "method", method, "backend", addr, "status", x.status, "reason", text, "error", err)
	if !x.body.whole() {
		// The rest of the body is not worth reading.
		w.Header().Set("Connection", "close")
	}
	w.Header().Set(requestID, x.id)
	http.Error(w, text, x.status)
}

// explain returns the status of an exchange that failed, and whose fault it is.
func (r *Router) explain(x *exchange, err error) (int, string) {
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	var bad badAnswer
	switch fromClient := x.body.err(); {
	case errors.As(err, &tooLarge) || errors.As(fromClient, &tooLarge):
		return http.StatusRequestEntityTooLarge, tooLargeText(tooLarge.Limit)
	case errors.Is(fromClient, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout, slowClientText
	case fromClient != nil && x.ctx.Err() == nil && !errors.Is(fromClient, io.ErrUnexpectedEOF) && !errors.As(fromClient, &timeout):
		return http.StatusBadRequest, "VCAP ROUTER: 400 - THE REQUEST'S BODY IS NOT HTTP"
	case x.ctx.Err() != nil || fromClient != nil:
		return statusClientGone, "VCAP ROUTER: 499 - THE CLIENT IS GONE"
	case errors.Is(err, errBusy):
		return http.StatusServiceUnavailable, busyText
	case errors.Is(err, errNoBackend) || isDial(err):
		return http.StatusBadGateway, noAnswerText
	case errors.As(err, &bad):
		return http.StatusBadGateway, "VCAP ROUTER: 502 - THE APP'S ANSWER CANNOT BE USED: " + strings.ToUpper(string(bad))
	case errors.Is(err, upstream.ErrHeadTooLarge):
		return http.StatusBadGateway, fmt.Sprintf("VCAP ROUTER: 502 - THE HEADERS OF THE APP'S ANSWER ARE LARGER THAN %d KB", maxAnswerHead>>10)
	case errors.As(err, &timeout) && timeout.Timeout():
		what := "ANSWER"
		if !x.body.whole() {
			what = "TAKE THE REQUEST"
		}
		return http.StatusGatewayTimeout, fmt.Sprintf("VCAP ROUTER: 504 - THE APP DID NOT %s WITHIN %s", what, r.config.AnswerTimeout.Round(time.Millisecond))
	}
	return http.StatusBadGateway, "VCAP ROUTER: 502 - THE APP BROKE OFF OR ANSWERED WHAT IS NOT HTTP"
}

func isDial(err error) bool {
	var dial *upstream.DialError
	return errors.As(err, &dial)
}

func tooLargeText(limit int64) string {
	return fmt.Sprintf("VCAP ROUTER: 413 - THE REQUEST'S BODY IS LARGER THAN %d MB", limit>>20)
}
