// @coji/durably with libsql, with its default settings but for what a workload is about.
// preserveSteps, so that its rows can be counted afterwards.
import fs from 'node:fs'

const DATABASE = 'coji.db'
const SYNCHRONOUS = { 0: 'off', 1: 'normal', 2: 'full', 3: 'extra' }
const NO_SUCH_DESCRIPTOR = 999999

const imported = performance.now()
const { createDurably, defineJob } = await import('@coji/durably')
const { LibsqlDialect } = await import('@libsql/kysely-libsql')
const { z } = await import('zod')
const importMs = performance.now() - imported
const { sql } = await import('kysely')

const spans = []
const began = []
let reached = null
let entered = null
let kills = false

const now = () => Number(process.hrtime.bigint()) / 1e6
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const until = async (condition) => {
  while (!(await condition())) await sleep(1)
}
const result = (number, size) =>
  size ? String(number).padStart(9, '0').padEnd(size, 'x') : number
const proc = (file, field) =>
  Number(fs.readFileSync(`/proc/self/${file}`, 'utf8').match(new RegExp(`${field}\\s+(\\d+)`))[1])

function mark() {
  if (!process.env.BENCHMARK_MARKS) return
  try {
    fs.fsyncSync(NO_SUCH_DESCRIPTOR)
  } catch {
    return
  }
}

async function measured(work) {
  mark()
  const written = proc('io', 'wchar:')
  const started = now()
  await work()
  const meter = { seconds: (now() - started) / 1000, written: proc('io', 'wchar:') - written }
  mark()
  return meter
}

const jobs = {
  steps: defineJob({
    name: 'steps',
    input: z.object({ count: z.number(), size: z.number() }),
    run: async (step, { count, size }) => {
      const started = now()
      for (let number = 0; number < count; number++)
        await step.run(`step-${number}`, async () => result(number, size))
      spans.push([started, now()])
    },
  }),
  only: defineJob({
    name: 'only',
    input: z.object({ number: z.number() }),
    run: async (step, { number }) => {
      await step.run('only', async () => number)
    },
  }),
  start: defineJob({
    name: 'start',
    input: z.object({ sent: z.number() }),
    run: async (step, { sent }) => {
      began.push(now() - sent)
    },
  }),
  resume: defineJob({
    name: 'resume',
    input: z.object({ count: z.number() }),
    run: async (step, { count }) => {
      entered ??= now()
      for (let number = 0; number < count; number++)
        await step.run(`step-${number}`, async () => number)
      await step.run('new', async () => {
        reached ??= now()
        if (kills) process.kill(process.pid, 'SIGKILL')
        return count
      })
    },
  }),
}

async function open(options) {
  const dialect = new LibsqlDialect({ url: `file:${DATABASE}` })
  const app = createDurably({ dialect, preserveSteps: true, jobs, ...options })
  app.on('run:fail', (event) => {
    throw new Error(`a run has failed: ${JSON.stringify(event)}`)
  })
  await app.init()
  return app
}

const one = async (app, query) => Object.values((await query.execute(app.db)).rows[0])[0]
const completed = (app) =>
  one(app, sql`SELECT count(*) FROM durably_runs WHERE status = 'completed'`)
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]

async function durability(app) {
  return {
    journal_mode: await one(app, sql`PRAGMA journal_mode`),
    synchronous: SYNCHRONOUS[await one(app, sql`PRAGMA synchronous`)],
    sqlite: await one(app, sql`SELECT sqlite_version()`),
  }
}

const workloads = {
  async steps({ count, threads = 1, size = 0 }) {
    const app = await open({ maxConcurrentRuns: threads })
    const each = Math.floor(count / threads)
    const meter = await measured(async () => {
      for (let run = 0; run < threads; run++) await app.jobs.steps.trigger({ count: each, size })
      await until(async () => (await completed(app)) === threads)
    })
    const seconds =
      (Math.max(...spans.map((span) => span[1])) - Math.min(...spans.map((span) => span[0]))) / 1000
    const done = each * threads
    const inForce = await durability(app)
    await app.stop()
    return { value: done / seconds, bytes: meter.written / done, durability: inForce }
  },

  async runs({ count, workers }) {
    const app = await open({ maxConcurrentRuns: workers })
    let ended = 0
    app.on('run:complete', () => ended++)
    const meter = await measured(async () => {
      for (let number = 0; number < count; number++) await app.jobs.only.trigger({ number })
      await until(() => ended === count)
    })
    const inForce = await durability(app)
    await app.stop()
    return { value: count / meter.seconds, bytes: meter.written / count, durability: inForce }
  },

  async batch({ count }) {
    const app = await open({ pollingIntervalMs: 3600000 })
    const inputs = Array.from({ length: count }, (_, number) => ({ input: { number } }))
    const meter = await measured(() => app.jobs.only.batchTrigger(inputs))
    const inForce = await durability(app)
    return { value: count / meter.seconds, bytes: meter.written / count, durability: inForce }
  },

  async start({ times }) {
    const app = await open({})
    for (let number = 1; number <= times; number++) {
      await sleep(10)
      await app.jobs.start.trigger({ sent: now() })
      await until(() => began.length === number)
    }
    const inForce = await durability(app)
    await app.stop()
    return { value: median(began), durability: inForce }
  },

  async prepare({ count }) {
    kills = true
    const app = await open({ leaseMs: 3000, leaseRenewIntervalMs: 1000 })
    await app.jobs.resume.trigger({ count })
    await until(() => false)
  },

  // The lease of the dead process was a short one, so that this need not wait for half a minute.
  async resume({ count }) {
    const app = await open({})
    await until(async () => (await completed(app)) === 1)
    await app.stop()
    return { value: ((reached - entered) * 1000) / count }
  },

  async memory() {
    const app = await open({})
    await app.jobs.only.triggerAndWait({ number: 1 })
    await app.stop()
    return { value: proc('status', 'VmHWM:') / 1024 }
  },

  async imports() {
    return { value: importMs }
  },
}

const outcome = await workloads[process.argv[2]](JSON.parse(process.argv[3]))
process.stdout.write(`\nOUTCOME ${JSON.stringify(outcome)}\n`, () => process.exit(0))
