// Package api is the REST API: what users ask of the controller.
package api

import (
	"log/slog"
	"net/http"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/accounts"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/hosts"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/peers"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/placement"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/routers"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/services"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/staging"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/updates"
)

// Deps are the parts that the API works with.
type Deps struct {
	Config   *config.Live
	Log      *slog.Logger
	Store    *store.Store
	Blobs    *blob.Store
	Catalog  model.Catalog
	Client   *http.Client // to DEAs' file servers
	Inside   *http.Client // to DEAs over TLS; nil: the controller speaks none
	Frame    *rest.Frame
	Accounts *accounts.Accounts
	Hosts    *hosts.Hosts
	Services *services.Services
	Peers    *peers.Peers
	Staging  *staging.Staging
	Placer   *placement.Placer
	Updates  *updates.Updates
	Routers  *routers.Routers
}

// Server answers requests.
type Server struct {
	Deps
	sessions rest.Counter // by app
	uploads  rest.Counter // by account
}

// New returns the API.
func New(d Deps) *Server { return &Server{Deps: d} }

// Routes returns the API for users.
func (s *Server) Routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h rest.Handler) { mux.Handle(pattern, s.Frame.Handle(h)) }
	user := func(pattern string, h func(http.ResponseWriter, *http.Request, model.Account) error) {
		handle(pattern, func(w http.ResponseWriter, r *http.Request) error {
			a, err := s.Accounts.Authenticate(r)
			if err != nil {
				return err
			}
			return h(w, r, a)
		})
	}
	app := func(pattern string, h func(http.ResponseWriter, *http.Request, model.Account, store.App) error) {
		user(pattern, func(w http.ResponseWriter, r *http.Request, a model.Account) error {
			found, err := s.Store.App(r.Context(), a.ID, r.PathValue("app"))
			if err != nil {
				return model.AppError(err)
			}
			return h(w, r, a, found)
		})
	}

	handle("GET /info", s.getInfo)
	handle("GET /info/runtimes", s.getRuntimes)

	user("GET /domains", s.listDomains)

	handle("POST /users", s.Accounts.CreateUser)
	user("GET /users", s.Accounts.ListUsers)
	user("GET /users/{email}", s.Accounts.GetUser)
	user("PUT /users/{email}", s.Accounts.ChangePassword)
	user("DELETE /users/{email}", s.deleteUser)
	handle("POST /users/{email}/tokens", s.Accounts.CreateToken)

	user("GET /apps", s.listApps)
	user("POST /apps", s.createApp)
	app("GET /apps/{app}", s.getApp)
	app("PUT /apps/{app}", s.putApp)
	app("DELETE /apps/{app}", s.deleteApp)
	app("POST /apps/{app}/application", s.uploadBits)
	app("PUT /apps/{app}/application", s.uploadBits)
	app("GET /apps/{app}/application", s.downloadBits)
	user("POST /resources", s.matchResources)
	app("GET /apps/{app}/instances", s.getInstances)
	app("GET /apps/{app}/stats", s.getStats)
	app("GET /apps/{app}/crashes", s.getCrashes)
	app("GET /apps/{app}/events", s.getEvents)
	app("GET /apps/{app}/requests", s.getRequests)
	files := filesServer{s}
	app("GET /apps/{app}/ended", files.getEnded)
	app("GET /apps/{app}/instances/{instance}/files", files.getFiles)
	app("GET /apps/{app}/instances/{instance}/files/{path...}", files.getFiles)
	app("GET /apps/{app}/instances/{instance}/session", s.session)
	of := updateServer{s}
	app("GET /apps/{app}/update", of.getUpdate)
	app("PUT /apps/{app}/update", of.putUpdate)
	app("GET /apps/{app}/updates/{id}", of.getUpdateOf)
	app("GET /apps/{app}/releases", of.getReleases)

	service := services.API{Services: s.Services, Frame: s.Frame, Authenticate: s.Accounts.Authenticate, Stands: s.Accounts.Stands, Optional: s.Accounts.Optional}
	service.Routes(handle, user)

	handle("/", func(http.ResponseWriter, *http.Request) error { return model.ErrNoSuchRoute })
	return mux
}

// Internal returns what other components ask for.
func (s *Server) Internal() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h rest.Handler) { mux.Handle(pattern, s.Frame.Handle(h)) }
	s.Staging.Routes(handle)
	s.Peers.Routes(handle)
	bulk := func() config.Credentials { return s.Config.Now().BulkAPI.Auth }
	handle("GET /bulk/apps", rest.Basic(bulk, s.bulkApps))
	handle("GET /bulk/counts", rest.Basic(bulk, s.bulkCounts))
	handle("/", func(http.ResponseWriter, *http.Request) error { return model.ErrNoSuchRoute })
	return mux
}
